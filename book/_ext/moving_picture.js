// Brings the picture of the front page to life: called with its element and its data, which moving_picture.py writes.
(root, data) => {
  'use strict';
  const find = (selector) => root.querySelector(selector);
  const [button, slider, level] = ['button', 'input', '.level'].map(find);
  const last = data.labels.length - 1;
  const still = matchMedia('(prefers-reduced-motion: reduce)');
  let timer = null;

  const show = (frame) => {
    slider.value = frame;
    root.style.setProperty('--frame', frame);
    root.querySelectorAll('[data-row]').forEach((count) => {
      count.textContent = data.calls[frame][count.dataset.row];
    });
    find('.seen').setAttribute('width', data.across[frame]);
    find('.marker').setAttribute('transform', `translate(${data.across[frame]})`);
    level.textContent = data.labels[frame];
    slider.setAttribute('aria-valuetext', `σ = ${data.labels[frame]}`);
  };
  const stop = () => {
    clearInterval(timer);
    timer = null;
    button.textContent = 'Play';
  };
  const play = () => {
    if (Number(slider.value) >= last) show(0);
    button.textContent = 'Pause';
    timer = setInterval(() => {
      show(Number(slider.value) + 1);
      if (Number(slider.value) >= last || !root.isConnected) stop();
    }, 600);
  };

  button.addEventListener('click', () => (timer ? stop() : play()));
  slider.addEventListener('input', () => {
    stop();
    show(Number(slider.value));
  });
  still.addEventListener('change', () => still.matches && stop());
  find('.controls').hidden = false;
  show(last);

  // By itself it plays once, when it is first seen.
  const watch = new IntersectionObserver((entries) => {
    if (!entries.some((entry) => entry.isIntersecting)) return;
    watch.disconnect();
    if (!still.matches && !timer) play();
  }, { threshold: 0.5 });
  watch.observe(root);
}
