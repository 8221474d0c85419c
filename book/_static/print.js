// On paper a page is light, its solutions are unfolded, long code may go on on the next page, and the pictures further
// down are there.
(() => {
  'use strict';
  const root = document.documentElement;
  let theme, unfolded;
  window.addEventListener('beforeprint', () => {
    theme = root.dataset.theme;
    root.dataset.theme = 'light';
    unfolded = [...document.querySelectorAll('.tag_hide-cell details:not([open])')];
    for (const solution of unfolded) solution.open = true;
    for (const code of document.querySelectorAll('.cell_input')) {
      code.classList.toggle('long', code.textContent.trim().split('\n').length > 25);
    }
    for (const image of document.querySelectorAll('img[loading=lazy]')) image.loading = 'eager';
  });
  window.addEventListener('afterprint', () => {
    root.dataset.theme = theme;
    for (const solution of unfolded) solution.open = false;
  });
})();
