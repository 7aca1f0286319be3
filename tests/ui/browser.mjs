// A browser on a ledger's page that complains about everything: dialogs, errors
// of scripts, messages on the console, breaches of the policy, requests to
// anybody but the ledger.

import { readFile } from 'node:fs/promises';
import path from 'node:path';

const { chromium } = await import(process.env.PLAYWRIGHT);
const axe = await readFile(process.env.AXE, 'utf8');

/** `options` are Playwright's of a context. */
export async function open(base, options = {}) {
  const browser = await chromium.launch({ executablePath: process.env.CHROMIUM, args: ['--no-sandbox', '--disable-dev-shm-usage'] });
  const context = await browser.newContext({ viewport: { width: 1280, height: 860 }, reducedMotion: 'reduce', ...options });
  const page = await context.newPage();
  const complaints = [];
  page.on('dialog', async (dialog) => {
    complaints.push(`dialog: ${dialog.message()}`);
    await dialog.dismiss();
  });
  page.on('pageerror', (error) => complaints.push(`error: ${error.stack}`));
  page.on('console', (message) => complaints.push(`console: ${message.text()}`));
  page.on('request', (request) => {
    if (!request.url().startsWith(`${base}/`)) complaints.push(`request: ${request.url()}`);
  });
  await page.exposeFunction('breach', (text) => complaints.push(`policy: ${text}`));
  await page.addInitScript(() => document.addEventListener('securitypolicyviolation', (event) => window.breach(`${event.violatedDirective} ${event.blockedURI}`)));
  return {
    page,
    complaints,
    /** Nothing to complain about but what fits one of `allowed`. */
    check(...allowed) {
      const left = complaints.filter((text) => !allowed.some((pattern) => pattern.test(text)));
      if (left.length) throw new Error(left.join('\n'));
    },
    async go(hash) {
      await page.goto(`${base}/${hash}`);
      await page.locator('h1').waitFor();
    },
    /** What axe has to say against the page as it is. */
    async examine() {
      await page.evaluate(axe);
      const { violations } = await page.evaluate(() => window.axe.run(document, { runOnly: ['wcag2a', 'wcag2aa', 'wcag21a', 'wcag21aa', 'wcag22aa', 'best-practice'] }));
      const told = violations.flatMap(({ id, nodes }) => nodes.map((node) => `${id}: ${node.html.slice(0, 200)}\n    ${node.failureSummary.replaceAll('\n', ' ')}`));
      if (told.length) throw new Error(`axe:\n${told.join('\n')}`);
    },
    /** Nothing is wider than the window. */
    async fits() {
      const wide = await page.evaluate(() => document.documentElement.scrollWidth - document.documentElement.clientWidth);
      if (wide > 0) throw new Error(`${page.url()}: ${wide} pixels too wide`);
    },
    async picture(name) {
      if (process.env.PICTURES) await page.screenshot({ path: path.join(process.env.PICTURES, `${name}.png`) });
    },
    end: () => browser.close(),
  };
}

export const publish = (base, events) => publishText(base, JSON.stringify(events));

async function publishText(base, body) {
  const answer = await fetch(`${base}/v1/events`, { method: 'POST', headers: { 'content-type': 'application/cloudevents-batch+json' }, body });
  if (answer.status !== 202) throw new Error(`${answer.status} ${await answer.text()}`);
  return answer.headers.get('ledger-position');
}

/** Publishes and waits until it can be read. */
export const settle = (base, events) => settleText(base, JSON.stringify(events));

export async function settleText(base, body) {
  const position = await publishText(base, body);
  const answer = await fetch(`${base}/v1/dead-letters?limit=1`, { headers: { 'ledger-position': position } });
  if (answer.status !== 200) throw new Error(`${answer.status} ${await answer.text()}`);
}

/** Events of one operation: [kind, milliseconds, data]. */
export function events(id, list, begin = Date.parse('2026-03-04T05:06:07Z')) {
  return list.map(([kind, after, data = {}], n) => ({ specversion: '1.0', id: `${id}-${n}`, source: '/workers/test', subject: id, type: `opledger.${kind}.v1`, time: new Date(begin + after).toISOString(), data }));
}

export const asked = { uri: '/v1/slices/l2vpn/A', method: 'PUT', body: '{"a":1}' };

export async function until(what, holds) {
  const end = Date.now() + 20_000;
  for (;;) {
    const found = await holds();
    if (found) return found;
    if (Date.now() > end) throw new Error(`not in twenty seconds: ${what}`);
    await new Promise((done) => setTimeout(done, 30));
  }
}

export function equal(actual, expected, what) {
  const [a, b] = [JSON.stringify(actual), JSON.stringify(expected)];
  if (a !== b) throw new Error(`${what}: ${a} instead of ${b}`);
}
