// Keeps the page fresh. It asks for the page's own address again and puts what is new in the place
// of what was there; filters and headings change that address. The server alone knows how a list
// looks, and the page works without any of this.

const INTERVAL = 5_000; // ms between two lists
const LONGEST = 30_000; // ms between two tries when there is no list
const LIMIT = 8_000; // ms that an answer may take
const TYPING = 200; // ms without a key after which a search is meant

const element = (id) => document.getElementById(id);
const form = element("filter");
const strip = element("strip");
const button = element("pause");

let asking = null; // the request under way
let timer = 0; // of the next one
let failures = 0; // since the last good list
let paused = false;
let since = strip.dataset.tone === "good" ? performance.now() : null; // when the list came

/** Ask for the page at its present address, and take what comes; a request under way is dropped. */
function refresh() {
  clearTimeout(timer);
  const before = asking;
  // Not fetch: this parses by itself, and so needs no markup made from text, which the policy forbids.
  const request = new XMLHttpRequest();
  asking = request;
  before?.abort(); // ends it at once, and by then it is no longer the one that is waited for
  request.open("GET", location.href);
  request.responseType = "document";
  request.timeout = LIMIT;
  request.addEventListener("loadend", () => {
    if (request !== asking) return;
    asking = null;
    take(request);
    schedule(Number(request.getResponseHeader("Retry-After")) * 1_000);
  });
  request.send();
}

/** Ask again after a while, unless nobody looks; the longer, the more often there was no list. */
function schedule(least = 0) {
  clearTimeout(timer);
  if (paused || document.hidden) return;
  const wait = Math.max(least || 0, Math.min(INTERVAL * 2 ** failures, LONGEST));
  // Pages that lost the same server do not come back to it in one moment.
  timer = setTimeout(refresh, wait * (0.9 + 0.2 * Math.random()));
}

/** Put the answer to a request on the page; without a list in it, the last one stays. */
function take(request) {
  const page = request.response;
  const fresh = request.status === 200 && page?.getElementById("list");
  if (fresh) {
    failures = 0;
    since = performance.now();
    for (const id of ["notice", "age", "states", "sort", "list"]) {
      morph(element(id), page.getElementById(id));
    }
  } else {
    failures += 1;
    const reason = page?.getElementById("notice")?.textContent ?? lost(request.status);
    say(since === null ? reason : `${reason} Below is the last list that came.`);
  }
  strip.dataset.tone = fresh ? (paused ? "paused" : "good") : "gone";
  tick();
}

/** Say in a sentence why there is no page in an answer. */
function lost(status) {
  if (status === 429) return "This page asked too often and waits a little.";
  if (status === 0 || (status >= 502 && status <= 504)) return "Slipway cannot be reached.";
  return `Slipway answered with an error (${status}).`;
}

/** Tell a person, and a screen reader, but the same thing only once. */
function say(text) {
  const notice = element("notice");
  if (notice.textContent !== text) notice.textContent = text;
}

/** Make a node equal to another one and keep what is equal: focus, selection and places stay. */
function morph(node, wanted) {
  if (node.isEqualNode(wanted)) return;
  if (node.nodeName !== wanted.nodeName) {
    node.replaceWith(wanted.cloneNode(true));
    return;
  }
  if (node.nodeType !== Node.ELEMENT_NODE) {
    node.data = wanted.data;
    return;
  }
  for (const { name } of [...node.attributes]) {
    if (!wanted.hasAttribute(name)) node.removeAttribute(name);
  }
  for (const { name, value } of wanted.attributes) {
    if (node.getAttribute(name) !== value) node.setAttribute(name, value);
  }
  const [old, anew] = [[...node.childNodes], [...wanted.childNodes]];
  anew.forEach((child, index) => {
    if (index < old.length) morph(old[index], child);
    else node.append(child.cloneNode(true));
  });
  old.slice(anew.length).forEach((child) => child.remove());
}

/** Write how old the list is, by a clock that nobody sets. */
function tick() {
  const seconds = since === null ? null : Math.floor((performance.now() - since) / 1_000);
  const text = seconds === null ? "" : seconds < 120 ? `${seconds} s ago` : `${Math.floor(seconds / 60)} min ago`;
  if (element("ago").textContent !== text) element("ago").textContent = text;
}

/** Take a query as the page's address, so that it can be shared and survives a reload. */
function show(query) {
  history.replaceState(null, "", query);
  refresh();
}

const search = () => show(`?${new URLSearchParams(new FormData(form))}`);
let typing = 0;
form.addEventListener("input", (event) => {
  clearTimeout(typing);
  typing = setTimeout(search, event.target.type === "search" ? TYPING : 0);
});
form.addEventListener("submit", (event) => {
  event.preventDefault();
  clearTimeout(typing);
  search();
});

element("list").addEventListener("click", (event) => {
  const link = event.target.closest("th a");
  if (!link || event.button || event.ctrlKey || event.metaKey || event.shiftKey) return;
  event.preventDefault();
  show(link.getAttribute("href"));
});

/** Ask at once and go on, or stop, as somebody looks or not. */
function wake() {
  if (paused || document.hidden) clearTimeout(timer);
  else refresh();
}

button.addEventListener("click", () => {
  paused = !paused;
  button.textContent = paused ? "Resume" : "Pause";
  if (paused && strip.dataset.tone === "good") strip.dataset.tone = "paused";
  wake();
});
document.addEventListener("visibilitychange", wake);
window.addEventListener("online", wake);

setInterval(tick, 1_000);
tick();
schedule();
