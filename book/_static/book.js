// The theme lets the keyboard scroll what is too wide, as far as it is shown when the page loads or its window changes.
// What is unfolded later is measured anew here. The event does not bubble, so it is caught on the way down.
document.addEventListener("toggle", () => window.dispatchEvent(new Event("resize")), true);
