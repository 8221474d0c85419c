// What is wrong with a page that has been opened: a list of findings.
() => {
    const findings = [];
    const article = document.querySelector('article') || document.body;
    for (const formula of article.querySelectorAll('.math')) {
        if (!formula.querySelector('mjx-container')) findings.push('a formula is not set: ' + formula.textContent);
        const boxes = [formula, ...formula.querySelectorAll('mjx-container')];
        const box = boxes.find(element => element.scrollWidth > element.clientWidth + 1);
        if (formula.matches('div') && box) {
            findings.push('a formula is cut off by ' + (box.scrollWidth - box.clientWidth) + ' pixels: ' +
                          formula.textContent.trim());
        }
    }
    for (const element of document.querySelectorAll('mjx-merror, [data-mjx-error]')) {
        findings.push('a formula is wrong: ' + (element.getAttribute('title') || element.textContent.trim()));
    }
    for (const text of document.querySelectorAll('mjx-assistive-mml :is(mtext, mi)')) {
        if (text.textContent.includes('\\')) findings.push('a formula shows its source: ' + text.textContent);
    }
    for (const image of document.images) {
        if (!image.naturalWidth) findings.push('an image is not shown: ' + image.getAttribute('src'));
    }
    for (const figure of article.querySelectorAll('.cell_output img, .cell_output .gausstools-live')) {
        const { filter, opacity, backgroundColor, mixBlendMode } = getComputedStyle(figure);
        const name = figure.id || figure.getAttribute('src');
        if (filter !== 'none' || opacity !== '1' || mixBlendMode !== 'normal') {
            findings.push('a figure is not shown in its own colours: ' + name);
        }
        if (backgroundColor !== 'rgb(255, 255, 255)') findings.push('a figure does not stand on white: ' + name);
    }
    for (const figure of article.querySelectorAll('.gausstools-live:not([data-live])')) {
        findings.push('an interactive figure does not live: ' + figure.id);
    }
    const times = {};
    for (const { id } of document.querySelectorAll('[id]')) times[id] = (times[id] || 0) + 1;
    for (const id in times) if (times[id] > 1) findings.push(times[id] + ' elements have the id ' + id);
    const wide = document.documentElement.scrollWidth - window.innerWidth;
    if (wide > 0) findings.push('the page is ' + wide + ' pixels wider than the window');
    return findings;
}
