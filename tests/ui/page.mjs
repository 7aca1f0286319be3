// usage: tests/ui/run tests/ui/page.mjs CHECK BASE
// One check of the web page in a real browser. PICTURES=folder keeps pictures.

import { asked, equal, events, open, publish, settle, settleText, until } from './browser.mjs';

const [, , check, base] = process.argv;
const rows = (page) => page.locator('.operations tbody tr');
const ids = (page) => page.locator('.operations tbody .c-id a').allTextContents();
const tab = async (page, times = 1) => {
  for (let n = 0; n < times; n += 1) await page.keyboard.press('Tab');
};
const focused = (page) => page.evaluate(() => document.activeElement.textContent);

const checks = {
  /** The list: counts, filters, pages, deep links. */
  async list() {
    const kinds = ['completed', 'failed', 'canceled'];
    const all = [];
    for (let n = 0; n < 250; n += 1) {
      const id = `op-${String(n).padStart(3, '0')}`;
      const end = kinds[n % 5];
      all.push(...events(id, [
        ['operation.created', n * 1000, { request: { ...asked, method: n % 2 ? 'POST' : 'DELETE', uri: n === 7 ? '/v1/seven' : asked.uri } }],
        ...(n % 5 === 4 ? [] : [['cluster.request_sent', n * 1000 + 10, { cluster_id: String(n % 3), request: asked }]]),
        ...(end ? [[`operation.${end}`, n * 1000 + 4200, end === 'canceled' ? {} : { response: { status_code: end === 'failed' ? 500 : 200 } }]] : []),
      ]));
    }
    await settle(base, all);
    const { page, check: calm, go, end, picture } = await open(base);
    await go('');
    await rows(page).nth(99).waitFor();
    equal(await rows(page).count(), 100, 'a page');
    equal((await ids(page)).slice(0, 3), ['op-249', 'op-248', 'op-247'], 'the newest first');
    const counts = () => page.locator('.count b').allTextContents();
    await until('counted', async () => JSON.stringify(await counts()) === '["250","50","50","50","50","50"]');
    await picture('list-light');
    await page.getByRole('button', { name: 'Next page' }).click();
    await until('the second page', async () => (await ids(page))[0] === 'op-149');
    await page.getByRole('button', { name: 'Next page' }).click();
    await until('the third page', async () => (await rows(page).count()) === 50);
    equal(await page.getByRole('button', { name: 'Next page' }).isVisible(), false, 'the last page');
    await page.getByRole('button', { name: 'Previous page' }).click();
    await until('back', async () => (await ids(page))[0] === 'op-149');
    // Filters are in the address, and an address gives its filters.
    await page.getByRole('button', { name: /failed/ }).click();
    await until('only failed', async () => (await rows(page).count()) === 50);
    await page.getByLabel('Method').selectOption('POST');
    await until('only posted', async () => (await rows(page).count()) === 25);
    equal(page.url().split('#')[1], '/operations?status=failed&method=POST', 'the address');
    await page.reload();
    await until('as before', async () => (await rows(page).count()) === 25);
    equal(await page.getByRole('button', { name: /failed/ }).getAttribute('aria-pressed'), 'true', 'pressed');
    await page.getByRole('button', { name: 'Clear' }).click();
    await page.getByLabel('URI begins with').fill('/v1/sev');
    await until('one', async () => (await rows(page).count()) === 1);
    equal(await ids(page), ['op-007'], 'by its URI');
    await go('#/operations?occurred_from=2026-03-04T05:10:00&order=oldest');
    await until('the oldest of that time', async () => (await ids(page))[0] === 'op-233');
    equal(await rows(page).count(), 17, 'since then');
    // By id.
    await page.keyboard.press('/');
    await page.keyboard.type('op-011');
    await page.keyboard.press('Enter');
    await page.locator('h1', { hasText: 'op-011' }).waitFor();
    await page.goBack();
    await rows(page).first().waitFor();
    calm();
    await end();
  },

  /** Rows move by themselves, and stand still when told to. */
  async live() {
    await settle(base, events('live-0', [['operation.created', 0, { request: asked }]]));
    const { page, check: calm, go, end } = await open(base);
    await go('');
    await rows(page).first().waitFor();
    await publish(base, events('live-1', [['operation.created', 5000, { request: asked }]]));
    await until('a new row on top', async () => (await ids(page)).join() === 'live-1,live-0');
    await publish(base, events('live-0', [['operation.created', 0, { request: asked }], ['operation.failed', 900, { response: { status_code: 500 } }]]));
    await until('the end', async () => (await rows(page).nth(1).locator('.status').textContent()).includes('failed'));
    await until('told', async () => (await page.locator('#spoken').textContent()).length > 0);
    const live = page.getByRole('button', { name: 'Live' });
    await live.click();
    await publish(base, events('live-2', [['operation.created', 9000, { request: asked }]]));
    await page.getByRole('button', { name: 'Show 1 change' }).waitFor();
    equal(await ids(page), ['live-1', 'live-0'], 'paused');
    await live.click();
    await until('let go', async () => (await ids(page)).join() === 'live-2,live-1,live-0');
    // One that no longer fits its filter leaves.
    await page.getByRole('button', { name: /unexecuted/ }).click();
    await until('two wait', async () => (await rows(page).count()) === 2);
    await publish(base, events('live-2', [['operation.created', 9000, { request: asked }], ['operation.started', 9500]]));
    await until('one has left', async () => (await ids(page)).join() === 'live-1');
    // An operation that is looked at, from before it exists to its end.
    const missing = [/console: Failed to load resource.* 404/];
    await page.evaluate(() => { location.hash = '#/operations/live-3'; });
    await page.getByText('no creation of an operation with this id').waitFor();
    await publish(base, events('live-3', [['operation.created', 0, { request: asked }], ['cluster.request_sent', 100, { cluster_id: '9', request: asked }]]));
    await page.locator('.summary .status', { hasText: 'executing' }).waitFor();
    await page.getByRole('img', { name: /no response yet/ }).waitFor();
    await publish(base, events('live-3', [['operation.created', 0, { request: asked }], ['cluster.request_sent', 100, { cluster_id: '9', request: asked }], ['cluster.response_received', 400, { cluster_id: '9', response: { status_code: 200 } }], ['operation.completed', 500, { response: { status_code: 200 } }]]));
    await page.locator('.summary .status', { hasText: 'completed' }).waitFor();
    await page.getByRole('img', { name: /response after 300 ms/ }).waitFor();
    // And what comes after the end.
    await publish(base, events('live-3', [['operation.created', 0, { request: asked }], ['operation.progressed', 90_000, { sub_status: 'late' }]]).slice(1).map((event) => ({ ...event, id: 'late' })));
    await page.getByText('After the terminal event.').waitFor();
    calm(...missing);
    await end();
  },

  /** The picture: what it shows, by pointer and by keyboard. */
  async timeline() {
    const undo = { ...asked, method: 'DELETE' };
    await settle(base, events('odd', [
      ['operation.created', 0, { request: asked }],
      ['operation.started', -800],
      ['cluster.request_sent', 1000, { cluster_id: '4', request: asked }],
      ['cluster.response_received', 3000, { cluster_id: '4', response: { status_code: 504 } }],
      ['cluster.response_received', 9000, { cluster_id: '4', response: { status_code: 201 } }],
      ['cluster.request_sent', 1500, { cluster_id: '5', request: asked }],
      ['cluster.response_received', 5000, { cluster_id: '7', response: {} }],
      ['rollback.attempted', 6000, { cluster_id: '4', request: undo }],
      ['rollback.response_received', 6500, { cluster_id: '4', response: { status_code: 500 } }],
      ['operation.failed', 7000, { response: { status_code: 500 } }],
      ['operation.completed', 8000, { response: { status_code: 200 } }],
    ]));
    await settle(base, events('slow', [
      ['operation.created', 0, { request: asked }],
      ['cluster.request_sent', 93_600_000, { cluster_id: '1', request: asked }],
      ['cluster.response_received', 93_602_000, { cluster_id: '1', response: { status_code: 200 } }],
    ]));
    const { page, check: calm, go, end, picture } = await open(base);
    await go('#/operations/odd');
    const mark = (name) => page.getByRole('img', { name });
    await mark(/^Cluster 4: response after 8 s/).waitFor();
    await mark(/^Cluster 5: no response/).waitFor();
    await mark(/^Rollback of cluster 4: response after 500 ms/).waitFor();
    await mark(/^Operation, failed after 7 s/).waitFor();
    const kinds = await page.locator('.anomalies code').allTextContents();
    equal(kinds, ['before_created', 'response_without_request', 'terminal_conflict', 'event_after_terminal', 'response_replaced'], 'anomalies');
    // The end's line lies where the axis says: at seven of the 9.8 seconds.
    const x = async (name) => (await mark(name).first().boundingBox()).x;
    const [zero, seven, nine] = [await x(/^Created/), await x(/^Failed: 500/), await x(/^Response of cluster 4: 201/)];
    if (Math.abs((seven - zero) / (nine - zero) - 7 / 9) > 0.01) throw new Error(`not in proportion: ${zero} ${seven} ${nine}`);
    await mark(/^Cluster 5/).hover();
    await page.locator('.tip', { hasText: 'no response' }).waitFor();
    await picture('timeline-light');
    await page.mouse.move(0, 0);
    // One stop for the tab key, arrows within.
    const stops = await page.locator('.mark[tabindex="0"]').count();
    equal(stops, 1, 'stops of the tab key');
    await page.locator('.mark[tabindex="0"]').focus();
    const told = [];
    for (const key of ['ArrowRight', 'ArrowRight', 'ArrowDown', 'ArrowRight', 'End']) {
      await page.keyboard.press(key);
      told.push((await page.evaluate(() => document.activeElement.getAttribute('aria-label'))).split('.')[0]);
    }
    equal(new Set(told).size, told.length, 'another mark each time');
    if (!told[2].includes('luster 4')) throw new Error(`below the operation is cluster 4: ${told}`);
    await page.locator('.tip').waitFor();
    await page.getByRole('link', { name: /^event \d+$/ }).first().click();
    await go('#/operations/slow');
    await page.locator('.silence text', { hasText: '1 d 2 h' }).waitFor();
    const bar = await mark(/^Cluster 1: response after 2 s/).boundingBox();
    if (bar.width < 300) throw new Error(`two seconds beside a day are to be seen: ${bar.width}`);
    await picture('timeline-silence');
    calm();
    await end();
  },

  /** Whatever a field holds is text. */
  async hostile() {
    const nasty = ['<img src=x onerror=alert(1)>', '"><script>alert(2)</script>', "'-alert(3)-'", 'javascript:alert(4)', '{{constructor.constructor("alert(5)")()}}', '</title></pre></textarea><svg onload=alert(6)>', '\u202eevil\u0000\u0007\r\n', '%3Cscript%3E', '\u{1F4A5}'.repeat(50), 'a'.repeat(250), '../../..', '#/projector', '__proto__', 'constructor'];
    for (const [n, text] of nasty.entries()) {
      const short = text.slice(0, 240);
      const request = { uri: `/${text}`, method: 'POST', body: text };
      const data = { cluster_id: short, request_id: `${short}!` };
      await settle(base, events(`hostile-${n}`, [
        ['operation.created', 0, { request }],
        ['operation.progressed', 5, { sub_status: text }],
        ['cluster.request_sent', 10, { ...data, request }],
        ['cluster.response_received', 20, { ...data, response: { status_code: 500, body: text } }],
        ['rollback.attempted', 30, { ...data, request, response: { status_code: 200, body: text } }],
        ...(n % 2 ? [['operation.canceled', 40, { reason: text }]] : []),
      ]).map((event, i) => ({ ...event, id: `${i}${short}`, source: `/${encodeURI(short)}`.slice(0, 900), extension: text })));
    }
    const { page, check: calm, go, fits, end, picture } = await open(base);
    for (const scheme of ['light', 'dark']) {
      await page.emulateMedia({ colorScheme: scheme });
      await go('');
      await until('all are listed', async () => (await rows(page).count()) === nasty.length);
      await picture(`hostile-list-${scheme}`);
    }
    const text = await page.locator('.operations').innerText();
    for (const shown of nasty.slice(0, 6)) if (!text.includes(shown)) throw new Error(`not shown as it is: ${shown}`);
    if (/[\u202e\u0000\u0007]/.test(text)) throw new Error('what cannot be seen is spelt out');
    for (const n of nasty.keys()) {
      await go(`#/operations/hostile-${n}`);
      await page.locator('.history tbody tr').first().waitFor();
      for (const details of await page.locator('main details > summary').all()) await details.click();
      for (const button of await page.getByRole('button', { name: 'Formatted' }).all()) await button.click();
      await page.locator('.timeline .mark').first().hover();
      const wanted = nasty[n].replace(/[\u0000-\u001f\u202e]/g, '').slice(0, 10);
      if (!(await page.locator('main').innerText()).includes(wanted)) throw new Error(`${n}: the text is not there`);
      await fits();
      if (n === 6) await picture('hostile-operation');
    }
    equal(await page.locator('main script, main img, main iframe, main svg svg').count(), 0, 'elements out of texts');
    await go('#/dead-letters');
    await page.locator('.letters tbody tr').first().waitFor();
    for (const details of await page.locator('.letters summary').all()) await details.click();
    const letters = await page.locator('.letters').innerText();
    for (const wanted of ['<img src=x onerror=alert(7)>', 'key_mismatch', 'tombstone', 'malformed', '(base64)']) if (!letters.includes(wanted)) throw new Error(`not among the dead letters: ${wanted}\n${letters}`);
    await picture('dead-letters');
    // What is in the address is text, too.
    for (const hash of ['#/operations/%3Cimg%20src=x%20onerror=alert(8)%3E', '#/%3Cscript%3E', '#/operations?status=%3Cb%3E', '#/operations/%E0%A4%A', '#/operations/a%2F..%2Fb', '#/constructor', '#/operations/__proto__']) {
      await go(hash);
      await page.waitForLoadState('networkidle', { timeout: 3000 }).catch(() => undefined);
    }
    calm(/console: Failed to load resource.* 40[04]/);
    await end();
  },

  /** Numbers are shown as they came, whatever JavaScript would make of them. */
  async numbers() {
    const data = JSON.stringify({ request: { ...asked, body: '{"of the body":9007199254740993}' }, more: 0 });
    const text = (subject, id, more) => `{"specversion":"1.0","id":"${id}","source":"/w","subject":"${subject}","type":"opledger.operation.created.v1","time":"2026-03-04T05:06:07Z","data":${data.replace('"more":0', `"more":${more}`)}}`;
    const exact = ['9007199254740993', '-12345678901234567890123', '1.50', '1e400', '0.1'];
    await settleText(base, `[${text('exact', 'one', `[${exact}]`)}]`);
    // What is created again with the same content is no anomaly.
    await settleText(base, `[${['0.001', '1e-3', '0.00100'].map((number, n) => text('alike', n, number))}]`);
    await settleText(base, `[${['9007199254740992', '9007199254740993'].map((number, n) => text('others', n, number))}]`);
    const { page, check: calm, go, end } = await open(base);
    await go('#/operations/exact');
    const row = page.locator('.history tbody tr').first();
    await row.locator('summary').click();
    await until('the numbers', async () => {
      const shown = await row.innerText();
      return exact.every((number) => shown.includes(number));
    });
    await page.getByRole('button', { name: 'Formatted' }).first().click();
    await page.getByText('"of the body": 9007199254740993').first().waitFor();
    await go('#/operations/alike');
    await page.getByText('3 events \u00b7 0 anomalies').waitFor();
    await go('#/operations/others');
    await page.getByText('2 events \u00b7 1 anomaly').waitFor();
    await page.getByText('created_again').waitFor();
    calm();
    await end();
  },

  /** Of several workers, each has a row. */
  async workers() {
    const { page, check: calm, go, end, picture } = await open(base);
    await settle(base, events('one', [['operation.created', 0, { request: asked }]]));
    await go('#/projector');
    const table = page.getByRole('table', { name: 'Workers' });
    await until('all rows', async () => (await table.locator('tbody tr').count()) === 4);
    const cells = await table.locator('tbody tr').last().locator('td').allTextContents();
    equal(cells.slice(0, 2), ['3', '48 \u2013 63'], 'the number and the slices');
    if (!/^ \d+\u00a0%$/.test(cells[3])) throw new Error(`how busy it is: ${cells[3]}`);
    await until('nothing is left', async () => (await table.locator('.behind').count()) === 0);
    await picture('workers');
    calm();
    await end();
  },

  /** One worker is the projector. */
  async alone() {
    const { page, check: calm, go, end } = await open(base);
    await go('#/projector');
    await page.locator('.partitions tbody tr').first().waitFor();
    equal(await page.locator('.workers').isVisible(), false, 'no table of workers');
    calm();
    await end();
  },

  /** Names, roles, contrast, focus: in both schemes, wide and narrow. */
  async everyone() {
    await settle(base, events('one', [['operation.created', 0, { request: asked }], ['operation.progressed', 3, { sub_status: '{"a":1}' }], ['cluster.request_sent', 10, { cluster_id: '1', request: asked }], ['cluster.response_received', 700, { cluster_id: '1', response: { status_code: 409 } }], ['cluster.response_received', 800, { cluster_id: '2', response: {} }], ['rollback.attempted', 900, { cluster_id: '1', request: asked }]]));
    await settle(base, ['completed', 'failed', 'canceled'].flatMap((end) => events(end, [['operation.created', 0, { request: asked }], [`operation.${end}`, 900, end === 'canceled' ? {} : { response: { status_code: 500 } }]])));
    await settle(base, events('new', [['operation.created', 0, { request: asked }]]));
    for (const [scheme, width] of [['light', 1280], ['dark', 1280], ['dark', 400], ['light', 400]]) {
      const { page, check: calm, go, examine, fits, end, picture } = await open(base, { colorScheme: scheme, viewport: { width, height: 860 } });
      for (const [name, hash, ready] of [['list', '', '.operations tbody tr'], ['pressed', '#/operations?status=failed', '.operations tbody tr'], ['operation', '#/operations/one', '.history tbody tr'], ['ended', '#/operations/failed', '.history tbody tr'], ['letters', '#/dead-letters', '.letters tbody tr'], ['projector', '#/projector', '.partitions tbody tr']]) {
        await go(hash);
        await page.locator(ready).first().waitFor();
        for (const details of await page.locator('main details:not([open]) > summary').all()) if (await details.isVisible()) await details.click();
        await picture(`${name}-${scheme}-${width}`);
        await examine();
        await fits();
      }
      await page.goto(`${base}/docs`);
      await page.locator('#getOperation').waitFor();
      for (const details of await page.locator('main details').all()) await details.evaluate((element) => { element.open = true; });
      await picture(`docs-${scheme}-${width}`);
      await examine();
      await fits();
      calm();
      await end();
    }
    // Without a mouse.
    const { page, check: calm, go, end } = await open(base);
    await go('');
    await rows(page).first().waitFor();
    await tab(page);
    equal(await focused(page), 'Skip to the content', 'first of all');
    await page.keyboard.press('Enter');
    equal(await page.evaluate(() => document.activeElement.id), 'main', 'skipped to');
    await tab(page, 2);
    if (!(await focused(page)).includes('all')) throw new Error('behind Live come the statuses');
    await page.getByRole('link', { name: 'failed' }).focus();
    await page.keyboard.press('Enter');
    await page.locator('h1', { hasText: 'failed' }).waitFor();
    equal(await focused(page), 'failed', 'a new view has the focus at its heading');
    equal(await page.title(), 'failed \u2013 opledger', 'the title');
    await page.getByRole('link', { name: 'Projector' }).first().focus();
    await page.keyboard.press('Enter');
    await until('there', () => page.evaluate(() => document.activeElement.matches('h1') && document.activeElement.textContent === 'Projector'));
    equal(await page.locator('nav [aria-current="page"]').textContent(), 'Projector', 'where one is');
    calm();
    await end();
  },
};

await checks[check]();
