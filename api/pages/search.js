// Narrows the list of operations to those that match. The page is whole without it.
"use strict";

const search = document.getElementById("search");

function narrow() {
  const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
  for (const section of document.querySelectorAll(".contents section")) {
    let left = 0;
    for (const item of section.querySelectorAll("li")) {
      const text = item.textContent.toLowerCase();
      item.hidden = !words.every((word) => text.includes(word));
      left += item.hidden ? 0 : 1;
    }
    section.hidden = left === 0;
  }
}

if (search) {
  search.hidden = false;
  search.addEventListener("input", narrow);
  document.addEventListener("keydown", (event) => {
    if (event.key === "/" && document.activeElement !== search) {
      event.preventDefault();
      search.focus();
    }
  });
}
