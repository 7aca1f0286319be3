// The API reference, from /openapi.json: requests, responses, examples.

import { read } from './api.js';
import { h, replace } from './dom.js';

const main = document.getElementById('main');
let schemas;

function show(api) {
  const routes = Object.entries(api.paths).flatMap(([path, methods]) => Object.entries(methods).map(([method, route]) => ({ path, method: method.toUpperCase(), ...route })));
  const parts = api.tags.map((tag) => ({ ...tag, routes: routes.filter((route) => route.tags[0] === tag.name) }));
  replace(main,
    h('nav', { class: 'contents', 'aria-label': 'Contents' }, parts.map((part) => [h('h2', {}, part.name), h('ul', {}, part.routes.map((route) => h('li', {}, h('a', { href: `#${route.operationId}` }, route.summary))))]), h('h2', {}, 'schemas'), h('ul', {}, names().map((name) => h('li', {}, h('a', { href: `#schema-${name}` }, name))))),
    h('div', { class: 'text' },
      h('h1', {}, `API reference, version ${api.info.version}`),
      h('p', { class: 'prose' }, words(api.info.description)),
      h('p', { class: 'note' }, 'For machines: ', h('a', { href: '/openapi.json' }, 'openapi.json'), ', OpenAPI ', api.openapi, '.'),
      parts.map((part) => h('section', { 'aria-label': part.name }, h('h2', { class: 'part' }, part.description), part.routes.map(routeView))),
      h('section', {}, h('h2', { class: 'part' }, 'Schemas'), names().map(schemaView))));
  const wanted = decodeURIComponent(location.hash.slice(1));
  if (wanted) document.getElementById(wanted)?.scrollIntoView();
}

const names = () => Object.keys(schemas).sort();

/** `code` in backquotes. */
const words = (text) => text.split('`').map((part, i) => (i % 2 ? h('code', {}, part) : part));

function routeView(route) {
  const { parameters, requestBody, responses } = route;
  return h('article', { class: 'route', id: route.operationId },
    h('h3', {}, h('span', { class: 'method' }, route.method), ' ', h('span', { class: 'uri' }, route.path)),
    h('p', { class: 'prose' }, route.summary, '. ', words(route.description)),
    parameters.length > 0 && h('table', { class: 'parameters' }, h('caption', { class: 'unseen' }, `Parameters of ${route.summary}`), h('thead', {}, h('tr', {}, ['Parameter', 'In', 'Value', 'Meaning'].map((name) => h('th', { scope: 'col' }, name)))), h('tbody', {}, parameters.map((parameter) => h('tr', {}, h('th', { scope: 'row', class: 'mono' }, parameter.name, parameter.required && h('span', { class: 'faint' }, ' *')), h('td', {}, parameter.in), h('td', { class: 'mono' }, kind(parameter.schema)), h('td', {}, words(parameter.description)))))),
    requestBody && [h('h4', {}, 'Body'), contents(requestBody.content)],
    h('h4', {}, 'Responses'),
    h('dl', { class: 'answers' }, Object.entries(responses).map(([status, answer]) => [h('dt', {}, h('span', { class: `code ${status < 400 ? 'good' : 'bad'}` }, status)), h('dd', {}, answer.description, status < 400 && [h('div', { class: 'faint' }, headers(answer)), contents(answer.content ?? {})])])));
}

const headers = (answer) => {
  const names = Object.keys(answer.headers ?? {}).filter((name) => name !== 'x-request-id');
  return names.length > 0 && ['with ', names.map((name, i) => [i > 0 && ', ', h('code', {}, name)])];
};

function contents(content) {
  return Object.entries(content).map(([type, { schema, example }]) => h('div', { class: 'content' }, h('code', {}, type), ' ', kind(schema), example !== undefined && h('details', {}, h('summary', {}, 'Example'), h('pre', { tabindex: '0' }, JSON.stringify(example, null, 2)))));
}

/** A schema in a few words, with links to those that have a name. */
function kind(schema) {
  if (schema.$ref) {
    const name = schema.$ref.split('/').pop();
    return h('a', { href: `#schema-${name}` }, name);
  }
  if (schema.allOf) return [schema.allOf.map(kind), schema.nullable ? ' | null' : ''];
  if (schema.enum) return schema.enum.map(String).join(' | ');
  if (schema.type === 'array') return ['[', schema.items ? kind(schema.items) : '', ']'];
  if (schema.oneOf) return schema.oneOf.map((one, i) => [i > 0 && ' | ', kind(one)]);
  const type = `${schema.type ?? 'any'}${schema.nullable && schema.type ? ' | null' : ''}`;
  const range = schema.minimum !== undefined && schema.maximum !== undefined && schema.maximum < 1e9 ? ` ${schema.minimum}\u2013${schema.maximum}` : '';
  const length = schema.maxLength !== undefined ? `, at most ${schema.maxLength}` : '';
  return `${type}${range}${length}${schema.format ? ` (${schema.format})` : ''}`;
}

function schemaView(name) {
  const schema = schemas[name];
  return h('article', { class: 'route', id: `schema-${name}` }, h('h3', {}, name), schema.description && h('p', { class: 'prose' }, words(schema.description)), shape(name, schema));
}

function shape(name, schema) {
  if (!schema.properties) return h('p', { class: 'mono' }, kind(schema));
  const required = new Set(schema.required);
  return h('table', { class: 'parameters' }, h('caption', { class: 'unseen' }, `Members of ${name}`), h('tbody', {}, Object.entries(schema.properties).map(([member, inner]) => h('tr', {}, h('th', { scope: 'row', class: 'mono' }, member, required.has(member) && h('span', { class: 'faint' }, ' *')), h('td', { class: 'mono' }, kind(inner)), h('td', {}, inner.description && words(inner.description))))));
}

try {
  const { value } = await read('/openapi.json');
  schemas = value.components.schemas;
  show(value);
} catch (error) {
  replace(main, h('h1', {}, 'API reference'), h('p', { class: 'trouble' }, `Cannot read /openapi.json: ${error.message}`));
}
