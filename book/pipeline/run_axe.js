// The violations that axe finds within a context, by default in the whole document.
([context, options]) =>
    axe.run(context || document, { ...options, resultTypes: ['violations'], iframes: false, preload: false })
        .then(results => results.violations)
