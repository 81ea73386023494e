for (const part of document.querySelectorAll(".case")) {
  const slider = part.querySelector("input");
  if (!slider) continue;
  const slices = part.querySelectorAll("img.slice");
  const titles = part.querySelectorAll(".title");
  const told = part.querySelector("output");
  slider.addEventListener("input", () => {
    slices.forEach((slice, k) => { slice.hidden = k !== slider.value - 1; });
    told.textContent = titles[slider.value - 1].textContent;
    slider.setAttribute("aria-valuetext", told.textContent);
  });
}
