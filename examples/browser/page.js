/* Teacher and student classify the drawing, by LiteRT.js or by ONNX Runtime Web. All files lie
   beside the page. The runtimes are in node_modules, and prepare.py writes the models. */
import {loadAndCompile, loadLiteRt, Tensor} from '@litertjs/core';
import * as ort from 'onnxruntime-web';

const NAMES = {teacher: 'Teacher', student: 'Student'};
const said = document.getElementById('said');
const pad = document.getElementById('pad');
const pen = pad.getContext('2d', {willReadFrequently: true});
const page = await (await fetch('models/page.json')).json();
const [height, width] = page.shape;

/* run[runtime][name] is a function from the pixels of one image to its logits. */
const run = {litert: {}, onnx: {}};
ort.env.wasm.wasmPaths = new URL('node_modules/onnxruntime-web/dist/', location.href).href;
ort.env.wasm.numThreads = 1;
await loadLiteRt(new URL('node_modules/@litertjs/core/wasm/', location.href).href);
for (const [name, model] of Object.entries(page.models)) {
  const compiled = await loadAndCompile(`models/${model.litert.file}`, {accelerator: 'wasm'});
  run.litert[name] = async (pixels) => {
    const input = new Tensor(Float32Array.from(pixels), [1, ...page.shape]);
    const outputs = await compiled.run(input);
    const logits = Array.from(outputs[0].toTypedArray());
    input.delete();
    outputs.forEach((output) => output.delete());
    return logits;
  };
  const session = await ort.InferenceSession.create(`models/${model.onnx.file}`);
  run.onnx[name] = async (pixels) => {
    const input = new ort.Tensor('float32', Float32Array.from(pixels), [1, ...page.shape]);
    const outputs = await session.run({[session.inputNames[0]]: input});
    return Array.from(outputs[session.outputNames[0]].data);
  };
}

function softmax(logits) {
  const most = Math.max(...logits);
  const found = logits.map((logit) => Math.exp(logit - most));
  const sum = found.reduce((a, b) => a + b);
  return found.map((each) => each / sum);
}

/* Returns the median time of several runs, since one run is shorter than the clock's step. */
async function timed(answer, pixels, rounds = 15) {
  const logits = await answer(pixels);
  const times = [];
  for (let i = 0; i < rounds; i++) {
    const begin = performance.now();
    for (let j = 0; j < 4; j++) await answer(pixels);
    times.push((performance.now() - begin) / 4);
  }
  return {logits, milliseconds: times.sort((a, b) => a - b)[rounds >> 1]};
}

function element(kind, attributes, ...children) {
  const made = Object.assign(document.createElement(kind), attributes);
  made.append(...children);
  return made;
}

function show(name, found, runtime) {
  const model = page.models[name];
  const card = document.getElementById(name);
  const shares = found && softmax(found.logits);
  const best = shares && shares.indexOf(Math.max(...shares));
  const size = `${model.parameters.toLocaleString('en')} weights, ` +
      `${(model[runtime].bytes / 1000).toFixed(0)} kB`;
  const time = element('div', {className: 'time'});
  time.append(element('b', {}, found ? found.milliseconds.toFixed(2) : '–'), ' ms');
  const bars = Array.from({length: 10}, (_, digit) => {
    const share = shares ? shares[digit] : 0;
    const bar = element('i', {});
    bar.style.setProperty('--share', `${(100 * share).toFixed(1)}%`);
    return element('div', {className: 'bar'}, `${digit}`, bar,
        element('em', {}, shares ? `${Math.round(100 * share)}%` : ''));
  });
  card.replaceChildren(
      element('h2', {}, NAMES[name]), element('p', {className: 'small'}, size),
      element('div', {className: 'top'},
          element('div', {className: 'digit'}, found ? `${best}` : '?'), time),
      ...bars);
}

const runtime = () => document.querySelector('input[name=runtime]:checked').value;
let latest = null;
let turn = 0;

async function answer(pixels) {
  latest = pixels;
  const mine = ++turn;
  const chosen = runtime();
  for (const name of Object.keys(NAMES)) {
    const found = pixels && await timed(run[chosen][name], pixels);
    if (mine !== turn) return;  // the user has drawn something else
    show(name, found, chosen);
  }
}

/* Turns the drawing into an image like those of the data set. The drawing fills the frame with a
   small margin, and each pixel is the share of ink in its part. */
function drawn() {
  const {data} = pen.getImageData(0, 0, pad.width, pad.height);
  let left = pad.width, right = -1, top = pad.height, bottom = -1;
  for (let y = 0; y < pad.height; y++)
    for (let x = 0; x < pad.width; x++)
      if (data[4 * (y * pad.width + x) + 3] > 40) {
        left = Math.min(left, x); right = Math.max(right, x);
        top = Math.min(top, y); bottom = Math.max(bottom, y);
      }
  if (right < 0) return null;
  const side = Math.max(right - left, bottom - top) + 1;
  const fine = 16;
  const small = document.createElement('canvas');
  small.width = width * fine; small.height = height * fine;
  const scale = Math.min(small.width, small.height) / side;
  const to = small.getContext('2d', {willReadFrequently: true});
  to.translate(small.width / 2, small.height / 2);
  to.scale(scale, scale);
  to.drawImage(pad, -(left + right + 1) / 2, -(top + bottom + 1) / 2);
  const ink = to.getImageData(0, 0, small.width, small.height).data;
  const pixels = new Array(width * height).fill(0);
  for (let y = 0; y < small.height; y++)
    for (let x = 0; x < small.width; x++)
      pixels[Math.floor(y / fine) * width + Math.floor(x / fine)] +=
          ink[4 * (y * small.width + x) + 3] / 255 / (fine * fine);
  return pixels;
}

const ink = () => getComputedStyle(document.body).color;

function line(from, to) {
  Object.assign(pen, {lineWidth: 30, lineCap: 'round', lineJoin: 'round', strokeStyle: ink()});
  pen.beginPath();
  pen.moveTo(...from);
  pen.lineTo(...to);
  pen.stroke();
}

let last = null;
const place = (event) => {
  const box = pad.getBoundingClientRect();
  const scale = pad.width / box.width;
  return [(event.clientX - box.left) * scale, (event.clientY - box.top) * scale];
};
let picked = false;
pad.addEventListener('pointerdown', (event) => {
  if (picked) pen.clearRect(0, 0, pad.width, pad.height);
  picked = false;
  pad.setPointerCapture(event.pointerId);
  last = place(event);
  line(last, last);
});
pad.addEventListener('pointermove', (event) => {
  if (!last) return;
  const now = place(event);
  line(last, now);
  last = now;
});
for (const end of ['pointerup', 'pointercancel'])
  pad.addEventListener(end, () => { last = null; answer(drawn()); });

function clear() {
  pen.clearRect(0, 0, pad.width, pad.height);
  answer(null);
}

function paint(context, pixels, size) {
  const one = size / width;
  pixels.forEach((share, i) => {
    context.globalAlpha = share;
    context.fillStyle = ink();
    context.fillRect((i % width) * one, Math.floor(i / width) * one, one + 0.5, one + 0.5);
  });
  context.globalAlpha = 1;
}

function pick(pixels) {
  pen.clearRect(0, 0, pad.width, pad.height);
  paint(pen, pixels, pad.width);
  picked = true;
  return answer(pixels);
}

page.images.forEach((pixels, i) => {
  const small = element('canvas', {width: 64, height: 64});
  paint(small.getContext('2d'), pixels, 64);
  const button = element('button', {type: 'button', title: `Image ${i + 1}`}, small);
  button.addEventListener('click', () => pick(pixels));
  document.getElementById('samples').append(button);
});
document.getElementById('clear').addEventListener('click', clear);
document.querySelectorAll('input[name=runtime]').forEach(
    (input) => input.addEventListener('change', () => answer(latest)));

/* Returns how far each runtime is from Keras on the images that prepare.py wrote. */
async function differences() {
  const found = {};
  for (const kind of Object.keys(run))
    for (const name of Object.keys(NAMES)) {
      let most = 0;
      for (const [i, pixels] of page.images.entries()) {
        const logits = await run[kind][name](pixels);
        const right = page.models[name].answers[i];
        if (logits.length !== right.length) most = NaN;
        logits.forEach((logit, j) => { most = Math.max(most, Math.abs(logit - right[j])); });
      }
      found[`${kind} ${name}`] = most;
    }
  return found;
}

await pick(page.images[3 % page.images.length]);
const far = Math.max(...Object.values(await differences()));
said.textContent = far < 1e-3 ?
    `Both runtimes agree with Keras to ${far.toExponential(0)}.` :
    `A runtime differs from Keras by ${far}.`;
window.distilled = {differences, answer, pick, page, run};
document.body.dataset.ready = 'true';
const check = new URLSearchParams(location.search).get('check');
if (check !== null) {
  const cards = Object.fromEntries(Object.keys(NAMES).map((name) =>
    [name, document.querySelector(`#${name} .digit`).textContent]));
  const wide = document.documentElement.scrollWidth > innerWidth;
  await fetch(check, {method: 'POST', body: JSON.stringify(
      {differences: await differences(), cards, wide, width: innerWidth})});
}
