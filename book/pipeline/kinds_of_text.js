// axe would take minutes for every piece of text. Text of the same colour and size on the same grounds is measured once:
// this marks one of each kind, and returns how many there are.
() => {
    const known = new WeakMap();
    const ground = element => {
        if (!element) return '';
        if (!known.has(element)) {
            const { backgroundColor, backgroundImage, opacity, filter } = getComputedStyle(element);
            const own = [backgroundColor, backgroundImage, opacity, filter].join();
            known.set(element, ground(element.parentElement) + (own === 'rgba(0, 0, 0, 0),none,1,none' ? '' : own));
        }
        return known.get(element);
    };
    const seen = new Set();
    for (const element of document.querySelectorAll('body *')) {
        element.removeAttribute('data-kind-of-text');
        const { color, fontSize, fontWeight, textDecorationLine } = getComputedStyle(element);
        const { width, height } = element.getBoundingClientRect();
        const written = [...element.childNodes].some(node => node.nodeType === Node.TEXT_NODE && node.data.trim());
        if (!written || width < 2 || height < 2 || element.closest('mjx-assistive-mml')) continue;
        const kind = [color, fontSize, fontWeight, textDecorationLine, ground(element)].join();
        if (!seen.has(kind)) element.setAttribute('data-kind-of-text', '');
        seen.add(kind);
    }
    return seen.size;
}
