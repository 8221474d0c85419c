// Brings one figure to life: called with its name and its data, which gausstools/figures/interactive.py writes.
// Lines that are comments are dropped there.
(name, data) => {
  'use strict';
  const number = (value) => String(Math.round(Math.min(Math.max(value, -1e4), 1e4) * 10) / 10);
  const words = (value) => value.toFixed(2).replace('-', '−');

  // An element with attributes and children. SVG's live in a namespace of their own.
  const make = (tag, attributes, ...children) => {
    const html = ['div', 'button', 'label', 'span', 'input', 'output'].includes(tag);
    const node = html ? document.createElement(tag) : document.createElementNS('http://www.w3.org/2000/svg', tag);
    for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
    node.append(...children);
    return node;
  };

  // The still pictures hold the axes: each becomes a part of the page, and its moving layers are drawn anew.
  const awaken = (root) => {
    root.setAttribute('data-live', '');
    return [...root.querySelectorAll('.panels > img')].map((image) => {
      const picture = make('div', {});
      picture.innerHTML = decodeURIComponent(image.src.slice(image.src.indexOf(',') + 1));
      const svg = picture.firstChild;
      svg.setAttribute('role', data.kind === 'frames' ? 'img' : 'group');
      image.replaceWith(svg);
      return svg;
    });
  };

  const noisedInverse = ([, , , xx, xy, yy], noise) => {
    const determinant = (xx + noise) * (yy + noise) - xy * xy;
    return [(yy + noise) / determinant, -xy / determinant, (xx + noise) / determinant, determinant];
  };

  // What the model answers at (x, y): σ²·Σ_k ρ_k M⁻¹(x − μ_k), which is x − D, and the responsibilities ρ_k.
  const ask = (model, x, y, sigma) => {
    const logs = [], pulls = [];
    let largest = -Infinity;
    for (const component of model) {
      const [a, b, c, determinant] = noisedInverse(component, sigma * sigma);
      const dx = x - component[1], dy = y - component[2];
      const px = a * dx + b * dy, py = b * dx + c * dy;
      const log = Math.log(component[0]) - (Math.log(determinant) + dx * px + dy * py) / 2;
      largest = Math.max(largest, log);
      logs.push(log);
      pulls.push([px, py]);
    }
    let total = 0, sx = 0, sy = 0;
    const weights = logs.map((log) => Math.exp(log - largest));
    for (const [k, weight] of weights.entries()) {
      total += weight;
      sx += weight * pulls[k][0];
      sy += weight * pulls[k][1];
    }
    const scale = sigma * sigma / total;
    return { away: [sx * scale, sy * scale], weights: weights.map((weight) => weight / total) };
  };

  // The flow dx/d ln σ = x − D on the levels of the slider, by the Runge–Kutta method of order 4.
  const follow = (model, start) => {
    const [high, low, steps] = data.sigma;
    const h = Math.log(low / high) / steps;
    const slope = ([x, y], index) => ask(model, x, y, level(index)).away;
    const step = ([x, y], [u, v], by) => [x + by * u, y + by * v];
    const path = [start];
    for (let i = 0; i < steps; i++) {
      const from = path[i];
      const a = slope(from, i), b = slope(step(from, a, h / 2), i + 0.5);
      const c = slope(step(from, b, h / 2), i + 0.5), d = slope(step(from, c, h), i + 1);
      path.push(step(from, [0, 1].map((k) => (a[k] + 2 * b[k] + 2 * c[k] + d[k]) / 6), h));
    }
    return path;
  };
  const level = (index) => data.sigma[0] * (data.sigma[1] / data.sigma[0]) ** (index / data.sigma[2]);

  // A plane: draws the models' answers at the slider's level, and lets a point be moved.
  const plane = (svg, redraw) => {
    const [left, top, across, up] = data.scale;
    const [x0, x1, y0, y1] = data.limits;
    const [model, other] = data.models;
    const { colors } = data;
    const cloud = model.every((component) => component[3] === 0 && component[5] === 0) && model.length > 1;
    const pixels = ([x, y]) => [left + across * x, top + up * y];
    const spot = (at) => pixels(at).map(number).join(' ');
    const layer = svg.querySelector('.moving');
    layer.replaceChildren();
    const draw = (attributes) => layer.appendChild(make('path', { fill: 'none', ...attributes }));
    const dot = (color, size) => draw({ stroke: color, 'stroke-width': size, 'stroke-linecap': 'round' });

    const oval = ([, mx, my, xx, xy, yy], noise, times) => {
      const [a, b, c] = [across * across * (xx + noise), across * up * xy, up * up * (yy + noise)];
      const middle = (a + c) / 2, spread = Math.hypot((a - c) / 2, b);
      const angle = Math.atan2(2 * b, a - c) / 2;
      const long = times * Math.sqrt(middle + spread), short = times * Math.sqrt(Math.max(middle - spread, 0));
      const [cx, cy] = pixels([mx, my]), ex = long * Math.cos(angle), ey = long * Math.sin(angle);
      const arc = `A${number(long)} ${number(short)} ${number(angle * 180 / Math.PI)} 1 0 `;
      const [there, back] = [1, -1].map((sign) => `${number(cx + sign * ex)} ${number(cy + sign * ey)}`);
      return `M${there}${arc}${back}${arc}${there}`;
    };
    const fixed = cloud
      ? { stroke: colors.noise, 'stroke-width': 3, 'stroke-linecap': 'round',
          d: model.map((component) => `M${spot(component.slice(1, 3))}h0`).join('') }
      : { stroke: colors.noise, d: model.map((component) => oval(component, 0, 1) + oval(component, 0, 2)).join('') };
    draw(fixed);
    const marks = model.map((component) => {
      if (!cloud) return draw({ stroke: colors.gaussian, 'stroke-width': 1.4 });
      const [cx, cy] = pixels(component.slice(1, 3));
      return layer.appendChild(make('circle', { cx, cy, r: 0, fill: colors.denoised, opacity: 0.6 }));
    });
    const trail = (color) => ({
      line: draw({ stroke: color, 'stroke-width': 1.6, 'stroke-linejoin': 'round' }),
      state: dot(color, 9), arrow: draw({ stroke: color === colors.path ? colors.data : color, 'stroke-width': 1.4 }),
      answer: dot(color === colors.path ? colors.denoised : color, 9),
    });
    const trails = [other && trail(colors.gaussian), trail(colors.path)].filter(Boolean).reverse();

    const arrow = (from, to) => {
      const [[ax, ay], [bx, by]] = [pixels(from), pixels(to)];
      const length = Math.hypot(bx - ax, by - ay);
      if (length < 1e-6) return '';
      const size = Math.min(7, 0.6 * length) / length;
      const [u, v] = [(bx - ax) * size, (by - ay) * size];
      const corner = (sign) => `${number(bx - u - sign * v / 2)} ${number(by - v + sign * u / 2)}`;
      return `M${spot(from)}L${spot(to)}M${corner(1)}L${spot(to)}L${corner(-1)}`;
    };

    const flows = data.kind === 'flow';
    let at = data.at, paths = [];
    const handle = make('g', { class: 'handle', tabindex: 0, role: 'slider',
      'aria-roledescription': 'point in the plane', 'aria-valuemin': Math.min(x0, x1), 'aria-valuemax': Math.max(x0, x1),
      'aria-label': `${flows ? 'starting point' : 'noisy point'}; arrow keys move it, Home brings it back` },
      make('circle', { class: 'ring', r: 13 }), make('circle', { r: 22, fill: 'transparent' }),
      make('circle', { class: 'grip', r: 7, fill: '#fff', 'fill-opacity': 0.6, stroke: colors.data, 'stroke-width': 2.5 }));
    layer.parentNode.after(handle);

    const place = (point) => {
      at = [Math.min(Math.max(point[0], Math.min(x0, x1)), Math.max(x0, x1)),
            Math.min(Math.max(point[1], Math.min(y0, y1)), Math.max(y0, y1))];
      const [x, y] = pixels(at);
      handle.setAttribute('transform', `translate(${x} ${y})`);
      handle.setAttribute('aria-valuenow', at[0].toFixed(3));
      handle.setAttribute('aria-valuetext', `${words(at[0])}, ${words(at[1])}`);
      if (flows) {
        paths = data.models.map((each) => follow(each, at));
        paths.forEach((path, i) => trails[i].line.setAttribute('d', `M${path.map(spot).join('L')}`));
      }
    };
    place(at);

    handle.addEventListener('keydown', (event) => {
      const by = (x1 - x0) / (event.shiftKey ? 250 : 50);
      const moves = { ArrowLeft: [-by, 0], ArrowRight: [by, 0], ArrowUp: [0, Math.abs(by)], ArrowDown: [0, -Math.abs(by)] };
      if (event.key === 'Home') place(data.at);
      else if (moves[event.key]) place([at[0] + moves[event.key][0], at[1] + moves[event.key][1]]);
      else return;
      event.preventDefault();
      event.stopPropagation();
      redraw();
    });
    // A finger that begins on the point moves the point; anywhere else it scrolls the page.
    handle.addEventListener('touchstart', (event) => event.preventDefault(), { passive: false });
    const space = layer.parentNode.parentNode;
    const pointed = (event) => {
      const { x, y } = new DOMPoint(event.clientX, event.clientY).matrixTransform(space.getScreenCTM().inverse());
      return [(x - left) / across, (y - top) / up];
    };
    let dragging = false, waiting = false, latest;
    handle.addEventListener('pointerdown', (event) => {
      dragging = true;
      handle.setPointerCapture(event.pointerId);
      handle.focus({ preventScroll: true });
      event.preventDefault();
    });
    handle.addEventListener('pointermove', (event) => {
      if (!dragging) return;
      latest = pointed(event);
      if (waiting) return;
      waiting = true;
      requestAnimationFrame(() => {
        waiting = false;
        place(latest);
        redraw();
      });
    });
    for (const end of ['pointerup', 'pointercancel', 'lostpointercapture']) {
      handle.addEventListener(end, () => { dragging = false; });
    }

    return (index) => {
      const sigma = level(index);
      let text = `σ = ${sigma.toPrecision(3)}`;
      data.models.forEach((each, i) => {
        const state = flows ? paths[i][index] : at;
        const { away, weights } = ask(each, state[0], state[1], sigma);
        const answer = [state[0] - away[0], state[1] - away[1]];
        trails[i].state.setAttribute('d', flows ? `M${spot(state)}h0` : '');
        trails[i].answer.setAttribute('d', `M${spot(answer)}h0`);
        trails[i].arrow.setAttribute('d', arrow(state, answer));
        if (i) return;
        svg.dataset.state = state.map((value) => value.toFixed(6));
        svg.dataset.answer = answer.map((value) => value.toFixed(6));
        if (flows) text += `, state (${state.map(words).join(', ')})`;
        text += `, denoised (${answer.map(words).join(', ')})`;
        if (cloud) {
          const averaged = 1 / weights.reduce((sum, weight) => sum + weight * weight, 0);
          text += `, an average of ${averaged < 10 ? averaged.toFixed(1) : averaged.toFixed(0)} points`;
        }
        const most = Math.max(...weights);
        weights.forEach((weight, k) => {
          if (cloud) {
            const radius = 5 * Math.sqrt(weight / most);
            marks[k].setAttribute('r', radius < 0.1 ? 0 : number(radius));
          } else {
            marks[k].setAttribute('d', oval(model[k], sigma * sigma, 1));
            marks[k].setAttribute('opacity', 0.15 + 0.85 * weight);
          }
        });
      });
      return text;
    };
  };

  const leaf = (svgs) => {
    const layers = svgs.map((svg) => svg.querySelector('.moving'));
    return (index) => {
      layers.forEach((layer, panel) => { layer.innerHTML = data.frames[index][panel]; });
      svgs.forEach((svg) => svg.setAttribute('aria-label', `at ${data.control} ${data.labels[index]}`));
      return `${data.control}: ${data.labels[index]}`;
    };
  };

  const start = (root) => {
    const svgs = awaken(root);
    const last = data.kind === 'frames' ? data.frames.length - 1 : data.sigma[2];
    const still = matchMedia('(prefers-reduced-motion: reduce)');
    const slider = make('input', { type: 'range', min: 0, max: last, step: 1, 'aria-label': data.control });
    slider.value = data.start;
    const output = make('output', {});
    const button = make('button', { type: 'button' });
    let timer = null;
    const draw = data.kind === 'frames' ? leaf(svgs) : plane(svgs[0], () => show());
    const show = () => {
      const text = draw(Number(slider.value));
      output.textContent = text;
      slider.setAttribute('aria-valuetext', data.kind === 'frames' ? data.labels[slider.value] : text.split(',')[0]);
    };
    const title = () => {
      button.textContent = timer ? 'Stop' : still.matches ? 'Step' : 'Play';
    };
    const stop = () => {
      clearInterval(timer);
      timer = null;
      title();
    };
    // Without motion, a press goes one frame on, or a twelfth of the way where the frames are many.
    const forward = (by) => {
      slider.value = Number(slider.value) >= last ? 0 : Number(slider.value) + by;
      show();
    };
    button.addEventListener('click', () => {
      if (timer) return stop();
      if (still.matches) return forward(Math.ceil(last / 24));
      if (Number(slider.value) >= last) slider.value = 0;
      timer = setInterval(() => {
        forward(1);
        if (Number(slider.value) >= last || !root.isConnected) stop();
      }, data.pause);
      title();
    });
    slider.addEventListener('input', () => {
      stop();
      show();
    });
    still.addEventListener('change', stop);
    title();
    root.append(make('div', { class: 'controls' }, button,
      make('label', {}, make('span', {}, data.control), slider), output));
    show();
  };

  document.querySelectorAll(`[id="${name}"]:not([data-live])`).forEach(start);
}
