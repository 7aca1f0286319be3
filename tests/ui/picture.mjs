// usage: tests/ui/run tests/ui/picture.mjs BASE FILE
// The picture of the web page in the README: an operation of the sample operations, on a
// ledger that has them, such as that of `make run` at http://127.0.0.1:8480.

import { open } from './browser.mjs';

const [, , base, file] = process.argv;
const { page, check, go, end } = await open(base, { viewport: { width: 1180, height: 700 } });
await go('#/operations/0001561626000500');
await page.getByText('Took').waitFor();
await page.screenshot({ path: file, clip: { x: 0, y: 0, width: 1165, height: 700 } });
check();
await end();
