// Connects the players with their pictures. Events are delegated, because results are replaced.
(() => {
  let used = null; // the player that was used last
  let end = null; // where the segment that is playing ends, in seconds

  const player = (id) => document.getElementById(id);

  function play(audio, start, stop) {
    end = null;
    audio.currentTime = start;
    audio.play().then(() => { end = stop; }, () => {}); // the visitor may stop it at once
  }

  function seek(track, event) {
    const audio = player(track.dataset.seeks);
    const box = track.getBoundingClientRect();
    if (audio && audio.duration) {
      audio.currentTime = audio.duration * (event.clientX - box.left) / box.width;
      end = null;
    }
  }

  document.addEventListener("click", (event) => {
    const segment = event.target.closest("[data-start]");
    const track = event.target.closest("[data-seeks]");
    if (segment) {
      const first = player(segment.closest("[data-player]").dataset.player);
      const audio = used && used.isConnected ? used : first;
      play(audio, Number(segment.dataset.start), Number(segment.dataset.end));
    } else if (track) {
      seek(track, event);
    }
  });

  // One stop of the Tab key for all segments; arrow keys move among them.
  document.addEventListener("keydown", (event) => {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    const segment = event.target.closest && event.target.closest(".sm-segments button");
    if (!step || !segment) return;
    const next = step > 0 ? segment.nextElementSibling : segment.previousElementSibling;
    if (next) next.focus();
    event.preventDefault();
  });

  document.addEventListener("focusin", (event) => {
    const group = event.target.closest(".sm-segments");
    if (!group) return;
    group.querySelectorAll("button").forEach((each) => { each.tabIndex = each === event.target ? 0 : -1; });
  });

  document.addEventListener("play", (event) => {
    used = event.target;
    document.querySelectorAll(".sm-player audio").forEach((each) => { if (each !== used) each.pause(); });
  }, true);

  document.addEventListener("timeupdate", (event) => {
    const audio = event.target;
    if (audio === used && end !== null && audio.currentTime >= end) {
      audio.pause();
      end = null;
    }
    const place = audio.duration ? `${100 * audio.currentTime / audio.duration}%` : "0";
    const tracks = [...document.querySelectorAll(`[data-seeks="${audio.id}"]`)];
    if (audio === used) tracks.push(...document.querySelectorAll(".sm-timeline .sm-track"));
    tracks.forEach((track) => { track.querySelector(".sm-head").style.left = place; });
  }, true);

  // Screen readers are told when results or an error replace the progress.
  const announce = new MutationObserver(() => {
    // Gradio's name of the upload lacks its visible text, by which speech control finds it.
    document.querySelectorAll(".upload-container[aria-label]").forEach((each) => each.removeAttribute("aria-label"));
    const news = document.querySelector("#sm-results .sm-error, #sm-results .sm-summary, #sm-results .sm-progress");
    const status = document.getElementById("sm-status");
    const text = !news ? "" : news.className === "sm-progress" ? "Analysing" : news.textContent;
    if (!status || status.textContent === text) return;
    status.textContent = text;
    const results = document.getElementById("sm-results");
    if (results.getBoundingClientRect().top > window.innerHeight - 100) results.scrollIntoView(); // on phones
  });
  announce.observe(document, { childList: true, subtree: true });
})();
