// A sheet of paper: each stroke hands the whole drawing to the page as a data URL, an empty sheet as "".
const canvas = element.querySelector('canvas');
const pen = canvas.getContext('2d');
let drawing = false;

function clear() {
  pen.fillStyle = '#fff';
  pen.fillRect(0, 0, canvas.width, canvas.height);
}

function place(event) {
  const box = canvas.getBoundingClientRect();
  const scale = canvas.width / box.width;
  return [(event.clientX - box.left) * scale, (event.clientY - box.top) * scale];
}

function draw(event) {
  pen.lineTo(...place(event));
  pen.stroke();
}

canvas.addEventListener('pointerdown', (event) => {
  drawing = true;
  canvas.setPointerCapture(event.pointerId);
  Object.assign(pen, { lineWidth: 20, lineCap: 'round', lineJoin: 'round', strokeStyle: '#000' });
  pen.beginPath();
  pen.moveTo(...place(event));
  draw(event);
});
canvas.addEventListener('pointermove', (event) => {
  if (drawing) draw(event);
});
for (const end of ['pointerup', 'pointercancel']) {
  canvas.addEventListener(end, () => {
    if (!drawing) return;
    drawing = false;
    props.value = canvas.toDataURL('image/png');
    trigger('input');
  });
}
element.querySelector('.clear').addEventListener('click', () => {
  clear();
  props.value = '';
  trigger('input');
});
watch('value', () => {
  if (!props.value) clear();
});
clear();
