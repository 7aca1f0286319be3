// Elements from values. Text is only ever text: there is no way here to hand
// markup to the browser, and the page's policy forbids all others.

const SVG = 'http://www.w3.org/2000/svg';

function build(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes ?? {})) {
    if (value === undefined || value === null || value === false) continue;
    if (typeof value === 'function') element.addEventListener(name, value);
    else if (name === 'value' || name === 'checked' || name === 'open') element[name] = value;
    else element.setAttribute(name, value === true ? '' : String(value));
  }
  element.append(...children.flat(Infinity).filter((child) => child !== undefined && child !== null && child !== false));
  return element;
}

/** An HTML element: h('a', { href, click: handler }, 'text', child). */
export const h = (tag, attributes, ...children) => build(document.createElement(tag), attributes, children);

/** The same for SVG. */
export const s = (tag, attributes, ...children) => build(document.createElementNS(SVG, tag), attributes, children);

export function replace(parent, ...children) {
  parent.replaceChildren(...children.flat(Infinity).filter((child) => child !== undefined && child !== null && child !== false));
}

/** Announces a text to a screen reader, once it has time. */
export function say(text) {
  const spoken = document.getElementById('spoken');
  spoken.textContent = spoken.textContent === text ? `${text}\u00a0` : text;
}

/** Calls at most once in a while, and once more at the end. */
export function throttle(milliseconds, call) {
  let timer;
  let last = 0;
  const run = () => {
    timer = undefined;
    last = performance.now();
    call();
  };
  const throttled = () => {
    timer ??= setTimeout(run, Math.max(0, last + milliseconds - performance.now()));
  };
  throttled.stop = () => clearTimeout(timer);
  return throttled;
}
