/**
 * Tests http-server in a real browser without a window: `deno task test-browser`.
 *
 * The tests need Chromium, which `.ci/run` installs if it can. Without Chromium they are ignored. Each test starts the
 * server in its own process with network and read access only, as the README does.
 *
 * @module
 */

/// <reference lib="dom" />
// deno-lint-ignore-file no-import-prefix -- the browser is only needed here, so deno.json does not list it
import { assert, assertEquals, assertMatch, assertRejects } from "@std/assert";
import { join } from "@std/path";
import {
  type Browser,
  type BrowserContext,
  type BrowserContextOptions,
  chromium,
  type Page,
} from "npm:playwright-core@1.65";
import { createHandler } from "../server.ts";
import { Served, Site, type Tree } from "./fixtures.ts";

const TIME_LIMIT = 15_000; // ms until a wait fails
const executablePath = ["chromium", "chromium-browser", "google-chrome"].map((name) => `/usr/bin/${name}`).find(exists);
let launched: Promise<Browser> | undefined;

function exists(file: string): boolean {
  try {
    return Deno.statSync(file).isFile;
  } catch {
    return false;
  }
}

/** Defines a test. The tests share a browser, so the sanitizers would report its process. */
function test(name: string, fn: () => Promise<void>): void {
  Deno.test({ name, ignore: executablePath === undefined, sanitizeOps: false, sanitizeResources: false, fn });
}

Deno.test.afterAll(async () => await (await launched)?.close());

/** Starts a browser that sends requests for nothing but the pages of the tests. Names in `.test` lead to this machine. */
function launch(): Promise<Browser> {
  const disabled = ["quic", "background-networking", "component-update", "sync"].map((name) => `--disable-${name}`);
  const args = ["--no-sandbox", "--disable-gpu", "--no-first-run", "--autoplay-policy=no-user-gesture-required"];
  args.push("--host-resolver-rules=MAP *.test 127.0.0.1", ...disabled);
  return chromium.launch({ executablePath, args });
}

/** Makes a context, whose tabs share a cache, a storage and the connections. */
async function openContext(options: BrowserContextOptions = {}): Promise<BrowserContext> {
  const context = await (await (launched ??= launch())).newContext(options);
  context.setDefaultTimeout(TIME_LIMIT);
  return context;
}

/** Opens a tab in its own context. */
async function openTab(options: BrowserContextOptions = {}): Promise<Page> {
  const tab = await (await (launched ??= launch())).newPage(options);
  tab.setDefaultTimeout(TIME_LIMIT);
  return tab;
}

function serve(root: string, ...args: string[]): Promise<Served> {
  return Served.start([...args, ...args.includes("--port") ? [] : ["--port", "0"], root]);
}

interface LiveOptions {
  args?: string[];
  /** The path of the page below the server's URL. */
  path?: string;
  /** The served folder in the site. */
  folder?: string;
}

/** Serves a site with live reload and opens a page of it in a tab, whose loads are counted. */
async function openLive(tree: Tree, { args = [], path = "", folder = "" }: LiveOptions = {}) {
  await using stack = new AsyncDisposableStack();
  const site = stack.use(await Site.lay(tree));
  const server = stack.use(await serve(folder === "" ? site.root : site.file(folder), "--live", ...args));
  const tab = stack.use(await openTab());
  const loads = countLoads(tab);
  await tab.goto(server.url + path);
  const moved = stack.move();
  return { site, server, tab, loads, [Symbol.asyncDispose]: () => moved.disposeAsync() };
}

/** Waits until a condition holds. */
async function until(what: string, condition: () => boolean): Promise<void> {
  const end = Date.now() + TIME_LIMIT;
  while (!condition()) {
    assert(Date.now() < end, `timeout: ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
}

/** Waits until a condition holds in the page, which may reload meanwhile. */
async function untilPage<T>(tab: Page, what: string, condition: (arg: T) => unknown, arg: T): Promise<void> {
  try {
    await tab.waitForFunction(condition as (arg: unknown) => unknown, arg);
  } catch (error) {
    const content = await tab.content().catch(() => "no page");
    throw new Error(`timeout: ${what}\n${tab.url()}\n${content.slice(0, 1000)}`, { cause: error });
  }
}

/** Waits until the page's heading is a text. */
function shows(tab: Page, text: string): Promise<void> {
  return untilPage(tab, `heading "${text}"`, (text) => document.querySelector("h1")?.textContent === text, text);
}

/** Waits until the whole text of a page is a text. */
function hasText(tab: Page, text: string): Promise<void> {
  return untilPage(tab, `text "${text}"`, (text) => document.body?.innerText.trim() === text, text);
}

/** Waits until the color of the heading is `rgb(red, 0, 0)`. */
function isColored(tab: Page, red: number): Promise<void> {
  const isRed = (red: number) => {
    const heading = document.querySelector("h1");
    return heading !== null && getComputedStyle(heading).color === `rgb(${red}, 0, 0)`;
  };
  return untilPage(tab, `a heading in rgb(${red}, 0, 0)`, isRed, red);
}

/** Counts how often a page is loaded from now on. A load counts before the page shows anything of it. */
function countLoads(tab: Page): () => number {
  let count = 0;
  tab.on("framenavigated", (frame) => count += Number(frame === tab.mainFrame()));
  return () => count;
}

/** Counts how often a page starts to listen for changes. */
function countStreams(tab: Page): () => number {
  let count = 0;
  tab.on("request", (request) => count += Number(request.url().includes("/events")));
  return () => count;
}

const page = (heading: string, head = "") => `<!doctype html><title>t</title>${head}<h1>${heading}</h1>\n`;
const color = (red: number) => `h1 { color: rgb(${red}, 0, 0) }\n`;
const link = (href: string) => `<link rel="stylesheet" href="${href}">`;

/** Replaces a file as editors do that save by rename. */
function replace(site: Site, name: string, text: string): void {
  site.write({ [`${name}.new`]: text });
  Deno.renameSync(site.file(`${name}.new`), site.file(name));
}

// Live reload -------------------------------------------------------------------------------------------------------

test("a page reloads when its file or a fetched file changes", async () => {
  await using live = await openLive({ "index.html": page("one") });
  const { site, server, tab } = live;
  await shows(tab, "one");
  await untilPage(tab, "no trace of the script", () => document.scripts.length === 0, undefined);
  site.write({ "index.html": page("two") });
  await shows(tab, "two");
  replace(site, "index.html", page("three"));
  await shows(tab, "three");
  const read =
    `fetch("sub/a.txt").then((response) => response.text()).then((text) => document.querySelector("h1").append(text))`;
  site.write({ "index.html": `${page("four ")}<script>${read}</script>`, "sub/a.txt": "a" });
  await shows(tab, "four a");
  site.write({ "sub/a.txt": "b" });
  await shows(tab, "four b");
  // A page that is too large for the cache.
  site.write({ "index.html": `${page("large")}<!-- ${"x".repeat(2 << 20)} -->` });
  await shows(tab, "large");
  site.write({ "index.html": `${page("large, too")}<!-- ${"x".repeat(2 << 20)} -->` });
  await shows(tab, "large, too");
  assertEquals(await server.stop(), 0);
});

test("a page reloads when an image changes", async () => {
  const image = (width: number) => `<svg xmlns="http://www.w3.org/2000/svg" width="${width}" height="1"/>`;
  await using live = await openLive({ "index.html": page("one", `<img src="a.svg">`), "a.svg": image(1) });
  const { site, tab } = live;
  const hasWidth = (width: number) =>
    untilPage(tab, `image width ${width}`, (width) => document.images[0]?.naturalWidth === width, width);
  await hasWidth(1);
  site.write({ "a.svg": image(2) });
  await hasWidth(2);
});

test("a page that is saved broken reloads, and reloads again when it is repaired", async () => {
  const broken = {
    "title": "<!doctype html><title>t<h1>broken</h1>",
    "comment": "<!doctype html><!-- <title>t</title><h1>broken</h1>",
    "comment in front": "<!-- <!doctype html><title>t</title><h1>broken</h1>",
    "script": "<!doctype html><title>t</title><script>0<h1>broken</h1>",
    "style": "<!doctype html><title>t</title><style>a {}<h1>broken</h1>",
    "textarea": "<!doctype html><title>t</title><textarea><h1>broken</h1>",
    "attribute quote": `<!doctype html><title>t</title><p class="a><h1>broken</h1>`,
    "quote in the html tag": "<!doctype html><html lang='en><head><title>t</title><h1>broken</h1>",
    "quote in the head tag": `<!doctype html><html><head class="a><title>t</title><h1>broken</h1>`,
    "doctype": "<!doctype html\n<title>t</title><h1>broken</h1>",
    "tag": "<!doctype html><title>t</title><h1",
    "noscript": "<!doctype html><noscript><title>t</title><h1>broken</h1>",
    "template": "<!doctype html><template><title>t</title><h1>broken</h1>",
  };
  await using live = await openLive({ "index.html": page("one") });
  const { site, tab, loads } = live;
  let expected = 1;
  for (const [name, text] of Object.entries(broken)) {
    site.write({ "index.html": text });
    expected++;
    await until(`load of the page with an unclosed ${name}`, () => loads() === expected);
    site.write({ "index.html": page(`without the unclosed ${name}`) });
    await shows(tab, `without the unclosed ${name}`);
    assertEquals(loads(), ++expected, name);
  }
});

test("the script changes neither the mode, the encoding nor the content of a page", async () => {
  const bytes = (text: string, ...start: number[]) => {
    const encoded = [...text].map((c) => c.charCodeAt(0));
    return new Uint8Array([...start, ...encoded]);
  };
  const utf16 = (text: string, isLittle: boolean) => {
    const view = new DataView(new ArrayBuffer(2 * text.length + 2));
    [...`\ufeff${text}`].forEach((c, index) => view.setUint16(2 * index, c.charCodeAt(0), isLittle));
    return new Uint8Array(view.buffer);
  };
  const body = "<title>t</title><h1>é</h1>\n";
  const pages: Record<string, string | Uint8Array> = {
    "utf-16le": utf16(`<!doctype html>${body}`, true),
    "utf-16be": utf16(`<!doctype html>${body}`, false),
    "utf-8-mark": `\ufeff<!doctype html>${body}`,
    "no-doctype": body,
    "comment": `<!-- ${"x".repeat(5000)} --><!doctype html>${body}`,
    "two-comments": `<!-- a --><!doctype html><!-- <head> --><html lang="de"><head data-a="a > b">${body}</head>`,
    "xml": `<?xml version="1.0"?>\n<!doctype html>${body}`,
    "meta": bytes(`<!doctype html><html><meta charset="windows-1252">${body}`),
    "late-meta": bytes(`<!doctype html><html><!--${"x".repeat(950)}--><meta charset="iso-8859-7">${body}`),
    "header-element": `<!doctype html><header>${body}</header>`,
    "body-only": `<body class="a">${body}</body>`,
    "frameset": `<frameset cols="50%,50%"><frame><frame></frameset>`,
    "text": "é",
    "empty": "",
  };
  const tree = Object.fromEntries(Object.entries(pages).map(([name, content]) => [`${name}.html`, content]));
  await using live = await openLive(tree, { path: "text" });
  const { site, server, tab } = live;
  await using plain = await serve(site.root);
  const read = async (url: string) => {
    await tab.goto(url, { waitUntil: "load" }); // after the script
    return await tab.evaluate(() => [
      document.compatMode,
      document.characterSet,
      document.doctype?.name,
      document.documentElement.outerHTML,
    ]);
  };
  for (const name of Object.keys(pages)) {
    assertEquals(await read(`${server.url}${name}`), await read(`${plain.url}${name}`), name);
  }
  // UTF-16 pages are sent as they are.
  const headers = { "sec-fetch-mode": "navigate" };
  for (const name of ["utf-16le", "utf-16be"]) {
    const response = await fetch(`${server.url}${name}`, { headers });
    assertEquals(await response.bytes(), pages[name]);
  }
});

test("changed and imported stylesheets of any name are swapped, and the page keeps its state", async () => {
  const hrefs = ["style@2.css", "a+b.css", "a&amp;b.css", "@scope/x.css", "a b.css", "é.css", "c%20d.css?v=1"];
  hrefs.push("100%25.css", "%40e.css", "it's.css", "css/imports.css");
  const imports = {
    "css/imports.css": `@import "one/one.css";`,
    "css/one/one.css": `@import url("../two/two.css") screen;`,
    "css/two/two.css": `@import "./three.css?a" layer(b); @import "/docs ü/late.css";`,
  };
  const names = hrefs.map((href) => decodeURIComponent(href.replace("&amp;", "&").replace("?v=1", "")));
  names.push("css/one/one.css", "css/two/two.css", "css/two/three.css", "late.css");
  const sheet = (name: string, value: number) =>
    `${imports[name as keyof typeof imports] ?? ""} :root { --p${names.indexOf(name)}: ${value} }`;
  const all = (value: number) => Object.fromEntries(names.map((name) => [name, sheet(name, value)]));
  const { "late.css": _, ...tree } = all(1);
  const head = `<meta charset="utf-8">${hrefs.map(link).join("")}`;
  const body = `<input><div style="height: 5000px"></div>`;
  await using live = await openLive({ "index.html": page("one", head) + body, ...tree }, {
    args: ["--base", "/docs ü/"],
  });
  const { site, tab, loads } = live;
  const has = (name: string, value: number) => {
    const hasValue = ([property, value]: [string, number]) =>
      getComputedStyle(document.documentElement).getPropertyValue(property) === `${value}`;
    return untilPage(tab, `${name} with ${value}`, hasValue, [`--p${names.indexOf(name)}`, value] as [string, number]);
  };
  for (const name of Object.keys(tree)) await has(name, 1);
  await tab.locator("input").fill("typed");
  await tab.evaluate(() => {
    scrollTo(0, 300);
    Object.assign(globalThis, { state: 1 });
  });
  for (const name of names) {
    site.write({ [name]: sheet(name, 2) });
    await has(name, 2);
  }
  // All at once, and with the source maps of a compiler.
  for (const name of names) replace(site, name, sheet(name, 3));
  site.write({ "css/imports.css.map": "{}" });
  for (const name of names) await has(name, 3);
  const state = await tab.evaluate(
    () => [document.querySelector("input")!.value, scrollY, Reflect.get(globalThis, "state")],
  );
  assertEquals(state, ["typed", 300, 1]);
  assertEquals(loads(), 1);
  // With another file, it is a reload.
  site.write({ "a+b.css": sheet("a+b.css", 4), "index.html": page("two", head) });
  await shows(tab, "two");
  await has("a+b.css", 4);
  assertEquals(loads(), 2);
});

test("a page reloads if more than its links use the changed stylesheet", async () => {
  const css = link("a.css");
  const shadow = (content: string) => `<div><template shadowrootmode="open">${content}<h1>in</h1></template></div>`;
  const adopt = (root: string) =>
    `<script type="module">import s from "./a.css" with { type: "css" }; ${root}.adoptedStyleSheets = [s];</script>`;
  const frame = (src: string) => `<iframe src="${src}"></iframe>`;
  await using other = await Site.lay({ "index.html": page("in", css), "a.css": color(9) });
  await using otherServer = await serve(other.root);
  const pages: Record<string, { content: string; isSwap?: true }> = {
    "a link": { content: css, isSwap: true },
    "two links": { content: css + link("a.css?v=2"), isSwap: true },
    "a style element": { content: `<style>@import "a.css";</style>` },
    "a link and a style element": { content: `${css}<style>@import "a.css";</style>` },
    "a link and an open shadow root": { content: css + shadow(css) },
    "an open shadow root": { content: shadow(css) },
    "a nested open shadow root": { content: css + shadow(shadow(css)) },
    "an open shadow root with an import": { content: css + shadow(`<style>@import "a.css";</style>`) },
    "an open shadow root without the stylesheet": {
      content: css + shadow("<style>h1 { margin: 0 }</style>"),
      isSwap: true,
    },
    "a link and an adopted stylesheet": { content: css + adopt("document") },
    "an adopted stylesheet": { content: adopt("document") },
    "an adopted stylesheet in a shadow root": {
      content: css + shadow("") + adopt(`document.querySelector("div").shadowRoot`),
    },
    "a frame": { content: css + frame("inner.html") },
    "a frame in a frame": { content: css + frame("outer.html") },
    "a frame without the stylesheet": { content: css + frame("plain.html"), isSwap: true },
    "a frame of another origin": { content: css + frame(otherServer.url), isSwap: true },
  };
  const tree = Object.fromEntries(
    Object.entries(pages).map(([name, { content }]) => [`${name}.html`, page("one") + content]),
  );
  const inner = { "inner.html": page("in", css), "plain.html": page("in"), "outer.html": frame("inner.html") };
  await using live = await openLive({ ...tree, ...inner, "a.css": color(1) });
  const { site, server, tab, loads } = live;
  let red = 1;
  // All headings that a page can see have the color, but those that do not use the stylesheet stay black.
  const areColored = (name: string) => {
    const areRed = (red: number) => {
      const roots = (root: Document | ShadowRoot): (Document | ShadowRoot)[] => {
        const elements = [...root.querySelectorAll("*")] as HTMLIFrameElement[];
        const inner = elements.map((element) => element.shadowRoot ?? element.contentDocument);
        return [root, ...inner.filter((root) => root != null).flatMap(roots)];
      };
      const headings = roots(document).flatMap((root) => [...root.querySelectorAll("h1")]);
      const colors = headings.map((heading) => getComputedStyle(heading).color).filter((color) =>
        color !== "rgb(0, 0, 0)"
      );
      return colors.length > 0 && colors.every((color) => color === `rgb(${red}, 0, 0)`);
    };
    return untilPage(tab, `${name}: rgb(${red}, 0, 0)`, areRed, red);
  };
  for (const [name, { isSwap }] of Object.entries(pages)) {
    await tab.goto(`${server.url}${encodeURIComponent(name)}`, { waitUntil: "load" });
    await areColored(name);
    const before = loads();
    site.write({ "a.css": color(++red) });
    if (!isSwap) await until(`reload of the page with ${name}`, () => loads() > before);
    await areColored(name);
    assertEquals(loads() - before, isSwap ? 0 : 1, name);
  }
});

test("changes that concern no page cause nothing", async () => {
  const files = { "app.js": "0 // one", "sub/used.js": "1" };
  const head = `${link("style.css")}<script src="app.js"></script><script src="sub/used.js"></script>`;
  await using live = await openLive({ "index.html": page("one", head), "style.css": color(1), ...files });
  const { site, tab, loads } = live;
  const remove = (name: string) => Deno.removeSync(site.file(name));
  const changes: Record<string, () => void> = {
    "nothing but the stylesheet": () => {},
    "an unrequested file": () => site.write({ "sub/unused.js": "", "README.md": "" }),
    "the same bytes again": () => site.write(files),
    "the same bytes in a new file": () => replace(site, "app.js", files["app.js"]),
    "a new date": () => Deno.utimeSync(site.file("app.js"), 1, 1),
    "a file that is deleted and written again": () => {
      remove("app.js");
      site.write(files);
    },
    "a change that is undone": () => {
      site.write({ "app.js": "0 // two" });
      site.write(files);
    },
    "a folder that is moved away and back": () => {
      Deno.renameSync(site.file("sub"), site.file("moved"));
      Deno.renameSync(site.file("moved"), site.file("sub"));
    },
    "the lock file of Emacs": () => {
      site.write({ "#index.html#": "<!doctype html>", ".#index.html": { link: "user@host.1" } });
      remove("#index.html#");
      remove(".#index.html");
    },
    "backup files": () => site.write({ "style.css~": color(0), "index.html~": page("old"), "app.js.bak": "" }),
    "the temporary files of gedit and Vim": () => {
      site.write({ ".goutputstream-X": color(0), "4913": "", ".index.html.swp": "" });
      remove(".goutputstream-X");
      remove("4913");
    },
  };
  // A reload would be in the same event as the stylesheet, which would not be swapped then.
  let red = 1;
  for (const [name, change] of Object.entries(changes)) {
    await isColored(tab, red);
    change();
    replace(site, "style.css", color(++red));
    await isColored(tab, red);
    assertEquals(loads(), 1, name);
  }
  site.write({ "app.js": "0 // three", "style.css": color(++red) });
  await isColored(tab, red);
  assertEquals(loads(), 2);
});

test("a listing reloads when a visible name changes", async () => {
  await using live = await openLive({ "sub/a.txt": "a" }, { path: "sub/" });
  const { site, tab, loads } = live;
  site.write({ "sub/.hidden": "", "other.txt": "" });
  site.write({ "sub/b.txt~": "" });
  await tab.locator("a", { hasText: "b.txt~" }).waitFor();
  assertEquals(loads(), 2);
  site.write({ "sub/.goutputstream-X": "" });
  Deno.removeSync(site.file("sub/.goutputstream-X"));
  Deno.renameSync(site.file("sub/b.txt~"), site.file("sub/b.txt"));
  await tab.locator("a", { hasText: /b\.txt$/ }).waitFor();
  assertEquals(loads(), 3);
});

test("a burst of changes causes one reload, after the last change", async () => {
  await using site = await Site.lay({ "index.html": page("0") });
  // The server is in this process, so it notices nothing before the whole burst is written.
  const stop = new AbortController();
  const handler = createHandler({ root: site.root, live: true, signal: stop.signal });
  const server = Deno.serve({ port: 0, hostname: "127.0.0.1", onListen() {} }, handler);
  await using tab = await openTab();
  await tab.goto(`http://127.0.0.1:${server.addr.port}/`);
  const loads = countLoads(tab);
  for (let i = 1; i <= 500; i++) site.write({ [`assets/${i % 20}/${i}.js`]: "", "index.html": page(`${i}`) });
  await shows(tab, "500");
  site.write({ "index.html": page("end") });
  await shows(tab, "end");
  assertEquals(loads(), 2);
  stop.abort();
  await server.shutdown();
});

test("a checkout and a build cause one reload each", async () => {
  const names = [...Array(300).keys()].map((i) => `${i}.txt`);
  // The first page fetches all files, the others fetch the last one.
  const read = `<script>{
      const names = sessionStorage.names ? ["299.txt"] : [...Array(300).keys()].map((i) => i + ".txt");
      sessionStorage.names = "fetched";
      const texts = names.map((name) => fetch(name).then((response) => response.text()));
      Promise.all(texts).then((texts) => document.querySelector("h1").append(texts.at(-1)));
    }</script>`;
  const build = (text: string) => ({
    "dist/index.html": page(`${text} `) + read,
    ...Object.fromEntries(names.map((name) => [`dist/${name}`, text])),
  });
  await using live = await openLive(build("one"), { folder: "dist" });
  const { site, tab, loads } = live;
  await shows(tab, "one one");
  // Git removes each file before it writes the new one.
  for (const [name, text] of Object.entries(build("two"))) {
    Deno.removeSync(site.file(name));
    site.write({ [name]: text });
  }
  await shows(tab, "two two");
  assertEquals(loads(), 2);
  Deno.removeSync(site.file("dist"), { recursive: true });
  site.write(build("three"));
  await shows(tab, "three three");
  assertEquals(loads(), 3);
  site.write({ "dist/0.txt": "four", "dist/299.txt": "four" });
  await shows(tab, "three four");
  assertEquals(loads(), 4);
});

test("a page that is missing or empty during a build stays until it is back", async () => {
  const build = (text: string) => ({ "dist/index.html": page(text), "dist/sub/about.html": page(`about ${text}`) });
  await using live = await openLive(build("one"), { folder: "dist" });
  const { site, server, tab, loads } = live;
  const dist = site.file("dist");
  await shows(tab, "one");
  const nextCheck = () => tab.waitForResponse((response) => response.request().method() === "HEAD");

  // An emptied folder has a listing instead of its page.
  let check = nextCheck();
  for (const { name } of Deno.readDirSync(dist)) Deno.removeSync(join(dist, name), { recursive: true });
  assertEquals((await check).status(), 200);
  check = nextCheck();
  site.write({ "dist/other.txt": "" });
  assertEquals((await check).status(), 200);
  await shows(tab, "one");
  site.write(build("two"));
  await shows(tab, "two");
  assertEquals(loads(), 2);

  check = nextCheck();
  site.write({ "dist/index.html": "" });
  assertEquals((await check).headers()["content-length"], "0");
  await shows(tab, "two");
  site.write(build("three"));
  await shows(tab, "three");
  assertEquals(loads(), 3);

  // The folder itself is removed and made again.
  check = nextCheck();
  Deno.removeSync(dist, { recursive: true });
  assertEquals((await check).ok(), false);
  await shows(tab, "three");
  site.write(build("four"));
  await shows(tab, "four");
  site.write(build("five"));
  await shows(tab, "five");
  assertEquals(loads(), 5);

  await tab.goto(`${server.url}sub/about`);
  check = nextCheck();
  Deno.removeSync(join(dist, "sub"), { recursive: true });
  assertEquals((await check).status(), 404);
  await shows(tab, "about five");
  site.write(build("six"));
  await shows(tab, "about six");
  assertEquals(loads(), 7);
});

test("a page reloads when the root is a link that is switched", async () => {
  const release = (name: string, text: string) => ({
    [`${name}/index.html`]: page(text, link("a.css")),
    [`${name}/a.css`]: color(1),
  });
  const tree = { ...release("first", "one"), ...release("second", "two"), current: { link: "first" } };
  await using live = await openLive(tree, { folder: "current" });
  const { site, tab, loads } = live;
  await shows(tab, "one");
  site.write({ "next": { link: "second" } });
  Deno.renameSync(site.file("next"), site.file("current"));
  await shows(tab, "two");
  assertEquals(loads(), 2);
  // The first release no longer counts.
  site.write(release("first", "old"));
  site.write({ "second/a.css": color(2) });
  await isColored(tab, 2);
  site.write(release("second", "three"));
  await shows(tab, "three");
  assertEquals(loads(), 3);
});

for (
  const [name, tree] of Object.entries<Tree>({
    "the built-in 404": {},
    "a 404.html": { "404.html": page("not found") },
  })
) {
  test(`a page that shows ${name} reloads when its file is created`, async () => {
    const files: Record<string, string> = {
      "new.html": "new.html",
      "clean": "clean.html",
      "folder/": "folder/index.html",
      "folder2": "folder2/index.html",
      "no/folder/new.html": "no/folder/new.html",
      "data.json": "data.json",
      "note.txt": "note.txt",
    };
    await using live = await openLive(tree, { path: "nothing" });
    const { site, server, tab, loads } = live;
    for (const [path, file] of Object.entries(files)) {
      const response = await tab.goto(`${server.url}${path}`);
      assertEquals(response?.status(), 404);
      const before = loads();
      site.write({ [file]: file.endsWith(".html") ? page(file) : `"${file}"` });
      if (file.endsWith(".html")) await shows(tab, file);
      else await hasText(tab, `"${file}"`);
      assertEquals(loads() - before, 1, path);
    }
  });
}

test("a page that shows a 404 reloads when a nearer 404.html is created", async () => {
  await using live = await openLive({ "sub/a.txt": "" }, { path: "sub/folder/nothing" });
  const { site, tab } = live;
  for (const file of ["404.html", "sub/404.html", "sub/folder/404.html"]) {
    site.write({ [file]: page(file) });
    await shows(tab, file);
  }
});

test("every path of a single-page app reloads when index.html changes", async () => {
  await using live = await openLive({ "index.html": page("one") }, { args: ["--spa"], path: "users/jane.doe" });
  const { site, server, tab, loads } = live;
  await shows(tab, "one");
  site.write({ "index.html": page("two") });
  await shows(tab, "two");
  assertEquals(loads(), 2);
  await tab.goto(`${server.url}users/jane`);
  site.write({ "index.html": page("three") });
  await shows(tab, "three");
  // The URL of an app may change without a load.
  await tab.evaluate(() => history.pushState(null, "", "/users/john.doe?tab=1#top"));
  const before = loads();
  site.write({ "index.html": page("four") });
  await shows(tab, "four");
  assertEquals(loads() - before, 1);
});

test("a page with <base> reloads and sends no request to another host", async () => {
  const bases = ["https://other.example/", "//other.example/a/", "/elsewhere/", "javascript:0"];
  const head = (i: number) => `<head><base href="${bases[i]}">`;
  const tree = Object.fromEntries(bases.map((_, i) => [`${i}.html`, page("one", head(i))]));
  await using live = await openLive(tree, { path: "0.html" });
  const { site, server, tab } = live;
  const requests: string[] = [];
  tab.on("request", (request) => requests.push(request.url()));
  site.write({ "a.css": color(1) });
  for (const i of bases.keys()) {
    await tab.goto(`${server.url}${i}.html`);
    const css = link(`${server.url}a.css`);
    site.write({ [`${i}.html`]: page("two", head(i) + css) });
    await shows(tab, "two");
    await isColored(tab, 2 * i + 1);
    const loads = countLoads(tab);
    site.write({ "a.css": color(2 * i + 2) });
    await isColored(tab, 2 * i + 2);
    assertEquals(loads(), 0, bases[i]);
    site.write({ "a.css": color(2 * i + 3) });
    await isColored(tab, 2 * i + 3);
  }
  assertEquals(requests.filter((url) => !url.startsWith(server.url)), []);
});

test("a service worker that passes requests on does not prevent reloads", async () => {
  const worker = `addEventListener("fetch", (event) => event.respondWith(fetch(event.request)));
    addEventListener("activate", (event) => event.waitUntil(clients.claim()));`;
  const register = `<script>navigator.serviceWorker.register("worker.js")</script>`;
  const head = register + link("a.css");
  await using live = await openLive({ "index.html": page("one", head), "worker.js": worker, "a.css": color(1) });
  const { site, tab, loads } = live;
  await untilPage(tab, "a service worker", () => navigator.serviceWorker.controller !== null, undefined);
  for (const text of ["two", "three", "four"]) {
    site.write({ "index.html": page(text, head) });
    await shows(tab, text);
  }
  site.write({ "a.css": color(2) });
  await isColored(tab, 2);
  assertEquals(loads(), 4);
});

test("a service worker that responds from its cache causes at most one reload for each change", async () => {
  const worker = `addEventListener("activate", (event) => event.waitUntil(clients.claim()));
    async function respond(request) {
      const cache = await caches.open("pages");
      const response = await cache.match(request) ?? await fetch(request);
      if (request.mode === "navigate") await cache.put(request, response.clone());
      return response;
    }
    addEventListener("fetch", (event) => event.respondWith(respond(event.request)));`;
  const register = `<script>navigator.serviceWorker.register("worker.js")</script>`;
  await using live = await openLive({ "index.html": page("one", register), "worker.js": worker });
  const { site, tab, loads } = live;
  await untilPage(tab, "a service worker", () => navigator.serviceWorker.controller !== null, undefined);
  await tab.reload();
  await shows(tab, "one");
  const streams = countStreams(tab);
  let expected = loads();
  for (const heading of ["two", "three"]) {
    const before = streams();
    site.write({ "index.html": page(heading, register) });
    expected++;
    await until("a load of the cached page", () => loads() >= expected);
    // The cached page listens with its old version, gets an event, and listens again with the new version.
    await until("a cached page that listens again", () => streams() >= before + 2 || loads() > expected);
    await shows(tab, "one");
    assertEquals(loads(), expected, heading);
  }
  await tab.evaluate(() => caches.delete("pages"));
  site.write({ "index.html": page("four", register) });
  await shows(tab, "four");
  assertEquals(loads(), expected + 1);
});

test("a page over plain HTTP from another host reloads, and its fetched fragments contain no script", async () => {
  const read = `<script>fetch("part.html").then((response) => response.text())
    .then((text) => document.querySelector("h1").append(text.length))</script>`;
  const files = { "index.html": page("one ") + read, "part.html": page("part") };
  await using live = await openLive(files, { args: ["--allow-host", "other.test"] });
  const { site, server, tab } = live;
  const url = server.url.replace("localhost", "other.test");
  const request = tab.waitForRequest(`${url}part.html`);
  await tab.goto(url);
  assertEquals((await (await request).allHeaders())["sec-fetch-mode"], undefined);
  await shows(tab, `one ${page("part").length}`);
  const loads = countLoads(tab);
  site.write({ "index.html": page("two ") + read });
  await shows(tab, `two ${page("part").length}`);
  site.write({ "part.html": page("another part") });
  await shows(tab, `two ${page("another part").length}`);
  assertEquals(loads(), 2);
});

test("a page that is opened or reloaded after a change loads once", async () => {
  const tree = { "index.html": page("one", link("style.css")), "style.css": color(1) };
  await using live = await openLive(tree);
  const { site, server, tab } = live;
  await isColored(tab, 1);

  // Nobody listens during the change.
  await tab.close();
  replace(site, "style.css", color(2));
  await using second = await openTab();
  const loads = countLoads(second);
  await second.goto(server.url);
  await isColored(second, 2);
  replace(site, "style.css", color(3)); // a second load would come first
  await isColored(second, 3);
  assertEquals(loads(), 1);

  for (const heading of ["two", "three", "four"]) {
    site.write({ "index.html": page(heading, link("style.css")) });
    await second.reload();
    await shows(second, heading);
  }
  replace(site, "style.css", color(4));
  await isColored(second, 4);
  assertEquals(loads(), 4);
});

test("a page that reads a growing log reloads every two seconds at most, and never with --ignore", async () => {
  const read = `<script>fetch("logs/a.log").then((response) => response.text())</script>`;
  const tree = { "index.html": page("one", link("style.css")) + read, "style.css": color(1), "logs/a.log": "0\n" };
  // On a busy machine, the log may pause so long that the page may reload earlier.
  const keepAppending = (site: Site) => {
    let last = performance.now();
    let pauses = 0;
    const append = () => {
      Deno.writeTextFileSync(site.file("logs/a.log"), "1\n", { append: true });
      const time = performance.now();
      pauses += Number(time - last > 80);
      last = time;
    };
    const timer = setInterval(append, 20);
    const countPauses = () => (append(), pauses);
    return { countPauses, [Symbol.dispose]: () => clearInterval(timer) };
  };
  {
    await using live = await openLive(tree);
    const { site, loads } = live;
    const start = performance.now();
    using log = keepAppending(site);
    await until("three reloads", () => loads() >= 4);
    const reloads = loads() - 1;
    const most = 1 + (performance.now() - start) / 2000 + log.countPauses();
    assert(reloads <= most, `${reloads} reloads instead of at most ${most}`);
  }
  await using live = await openLive(tree, { args: ["--ignore", "*.log"] });
  const { site, tab, loads } = live;
  using _appending = keepAppending(site);
  await isColored(tab, 1);
  for (const red of [2, 3, 4]) {
    replace(site, "style.css", color(red));
    await isColored(tab, red);
  }
  assertEquals(loads(), 1);
});

test("pages reload when the server restarts", async () => {
  await using other = await Site.lay({ "index.html": page("another project") });
  await using live = await openLive({ "index.html": page("one") });
  const { server, tab } = live;
  await shows(tab, "one");
  assertEquals(await server.stop(), 0);
  await using _next = await serve(other.root, "--live", "--port", `${server.port}`);
  await shows(tab, "another project");
});

test("only the top page listens for changes, not its frames", async () => {
  const frames = `<iframe src="inner.html"></iframe>`.repeat(8);
  await using site = await Site.lay({ "index.html": page("one", frames), "inner.html": page("inner one") });
  await using server = await serve(site.root, "--live");
  await using tab = await openTab();
  const streams = countStreams(tab);
  await tab.goto(server.url, { waitUntil: "load" });
  await shows(tab, "one");
  site.write({ "inner.html": page("inner two") });
  const haveText = () =>
    [...document.querySelectorAll("iframe")].every((frame) => frame.contentDocument?.body?.innerText === "inner two");
  await untilPage(tab, "new text in all frames", haveText, undefined);
  await until("a second stream", () => streams() >= 2);
  assertEquals(streams(), 2);
});

test("six pages reload, which need all connections of a browser", async () => {
  await using site = await Site.lay({ "index.html": page("one") });
  await using server = await serve(site.root, "--live");
  await using context = await openContext();
  const tabs: Page[] = [];
  for (let i = 0; i < 6; i++) tabs.push(await context.newPage());
  for (const tab of tabs) await tab.goto(server.url);
  for (const text of ["two", "three"]) {
    site.write({ "index.html": page(text) });
    for (const tab of tabs) await shows(tab, text);
  }
});

test("hidden pages hold no connection, and reload when they become visible", async () => {
  await using site = await Site.lay({ "index.html": page("one") });
  await using server = await serve(site.root, "--live");
  await using context = await openContext(); // in which every page counts as visible
  await context.addInitScript(() => Object.defineProperty(document, "hidden", { value: true, writable: true }));
  const tabs = [];
  for (let i = 0; i < 8; i++) {
    const tab = await context.newPage();
    await tab.goto(server.url);
    await shows(tab, "one");
    tabs.push(tab);
  }
  site.write({ "index.html": page("two") });
  for (const tab of tabs) {
    await tab.evaluate(() => {
      Object.assign(document, { hidden: false });
      document.dispatchEvent(new Event("visibilitychange"));
    });
    await shows(tab, "two");
  }
});

test("a fetched fragment contains no script, and a second script element does nothing", async () => {
  const include = `<div></div><script>fetch("part.html").then((response) => response.text())
    .then((text) => document.querySelector("div").innerHTML = text)</script>`;
  await using site = await Site.lay({ "index.html": page("one") + include, "part.html": "<p>part</p>" });
  await using server = await serve(site.root, "--live");
  await using tab = await openTab();
  const streams = countStreams(tab);
  const includes = (html: string) =>
    untilPage(tab, `the fragment ${html}`, (html) => document.querySelector("div")?.innerHTML === html, html);
  await tab.goto(server.url);
  await includes("<p>part</p>");
  await tab.evaluate(() => {
    const script = Object.assign(document.createElement("script"), { src: "/.live-reload/script.js?again" });
    document.body.append(script);
    return new Promise((resolve) => script.onload = resolve);
  });
  site.write({ "part.html": "<p>other</p>" });
  await includes("<p>other</p>");
  await until("a second stream", () => streams() >= 2);
  assertEquals(streams(), 2);
});

test("a page does not retry if its policy forbids the connection", async () => {
  await using site = await Site.lay({ "index.html": page("one") });
  const policy = "Content-Security-Policy: default-src 'none'; script-src 'self'";
  await using server = await serve(site.root, "--live", "--header", policy);
  await using tab = await openTab();
  const failures: string[] = [];
  tab.on("console", (message) => message.type() === "error" && failures.push(message.text()));
  await tab.addInitScript(() => {
    const { setTimeout, EventSource } = globalThis;
    globalThis.EventSource = class extends EventSource {
      constructor(url: string | URL) {
        super(url);
        this.addEventListener("error", () => setTimeout(() => document.title = "failed"));
      }
    };
    Object.assign(globalThis, { setTimeout: () => document.body.append("A retry.") });
  });
  await tab.goto(server.url);
  await untilPage(tab, "a failed connection", () => document.title === "failed", undefined);
  await hasText(tab, "one");
  assertMatch(failures.join(), /^[^,]*connect[^]*Content Security Policy/i);
});

test("a page reloads without a storage", async () => {
  // A sandboxed page has an origin of its own, so it needs CORS.
  const args = ["--cors", "--header", "Content-Security-Policy: sandbox allow-scripts"];
  await using live = await openLive({ "index.html": page("one") }, { args });
  const { site, tab } = live;
  await shows(tab, "one");
  site.write({ "index.html": page("two") });
  await shows(tab, "two");
});

test("a page that can't be checked tries again", async () => {
  await using live = await openLive({ "index.html": page("one") });
  const { site, server, tab } = live;
  let checks = 0;
  await tab.route(server.url, async (route) => {
    const isFirst = route.request().method() === "HEAD" && ++checks === 1;
    await (isFirst ? route.abort() : route.continue());
  });
  site.write({ "index.html": page("two") });
  await shows(tab, "two");
  assertEquals(checks, 2);
});

test("files, listings and 404 pages reload under a content-security policy", async () => {
  const tree = { "index.html": page("one"), "404.html": page("not found"), "sub/a.txt": "a" };
  const policy = "Content-Security-Policy: default-src 'self'; style-src 'unsafe-inline'";
  await using live = await openLive(tree, { args: ["--header", policy], path: "nothing" });
  const { site, server, tab } = live;
  await shows(tab, "not found");
  site.write({ "404.html": page("still not found") });
  await shows(tab, "still not found");
  site.write({ "nothing.html": page("found") });
  await shows(tab, "found");
  site.write({ "nothing.html": page("found and changed") });
  await shows(tab, "found and changed");
  await tab.goto(`${server.url}sub/`);
  site.write({ "sub/b.txt": "b" });
  await tab.locator("a", { hasText: "b.txt" }).waitFor();
});

// The rest ----------------------------------------------------------------------------------------------------------

test("each link of a listing opens, whatever the name", async () => {
  const names = ["a b", "a#b", "a%b", "%41", "a+b", "a&b;c=d", "it's", "é", "é".normalize("NFD"), "😀", '"q"', "a?b"];
  names.push("<b>", "a:b", "javascript:alert(1)", "~!$(),@[]{}^`", " ", "new\nline", "a..", "a\tb");
  const files = names.map((name) => `${name}.txt`);
  await using site = await Site.lay(Object.fromEntries(files.map((name) => [`odd #%é/${name}`, `It is ${name}`])));
  await using server = await serve(site.root);
  await using tab = await openTab();
  await tab.goto(server.url);
  await tab.locator("a", { hasText: "odd" }).click();
  await tab.locator("a[href$='.txt']").first().waitFor();
  const links = await tab.locator("a[href$='.txt']").evaluateAll((links) =>
    links.map((a) => (a as HTMLAnchorElement).href)
  );
  const found = [];
  for (const link of links) {
    assertEquals((await tab.goto(link))?.status(), 200, link);
    found.push(await tab.evaluate(() => document.body.textContent));
  }
  assertEquals(found.sort(), files.map((name) => `It is ${name}`).sort());
});

const SVG = '<svg xmlns="http://www.w3.org/2000/svg" width="40" height="30"><rect width="40" height="30"/></svg>';
const LONG_NAME = `${"long-name-without-a-space".repeat(8)}.txt`;
const LISTED: Tree = {
  ...{ "f9.txt": "12345", "f10.txt": "1", [LONG_NAME]: "", "p.svg": SVG, "v.mp4": "", "s.mp3": "", "a.zip": "" },
  ...{ "c.ts": "", "other": "", "sub/x.txt": "", "sub/deep/a/bc/folder with spaces/y": "", "empty": null },
};
const LISTED_NAMES = [
  "empty",
  "sub",
  "a.zip",
  "c.ts",
  "f9.txt",
  "f10.txt",
  LONG_NAME,
  "other",
  "p.svg",
  "s.mp3",
  "v.mp4",
];
const DESKTOP: BrowserContextOptions = { viewport: { width: 1280, height: 900 } };
const PHONE: BrowserContextOptions = { viewport: { width: 390, height: 844 }, isMobile: true, hasTouch: true };
const SMALL: BrowserContextOptions = { ...PHONE, viewport: { width: 320, height: 640 } };

/** Returns the names that a listing shows. */
async function namesOf(tab: Page): Promise<string[]> {
  return await tab.locator("tbody a:visible").allTextContents();
}

test("a listing sorts, filters and shows a grid without scripts", async () => {
  await using site = await Site.lay(LISTED);
  await using server = await serve(site.root);
  for (const options of [DESKTOP, PHONE]) {
    await using tab = await openTab({ ...options, javaScriptEnabled: false });
    const requested: string[] = [];
    tab.on("request", (request) => requested.push(new URL(request.url()).pathname));
    await tab.goto(server.url);
    assertEquals(await namesOf(tab), LISTED_NAMES);
    assertEquals(requested, ["/"], "the listing needs no other file");
    const sorted = async () => [await tab.locator("[aria-sort]").innerText(), (await namesOf(tab)).slice(2, 4)];
    const sort = (name: string) => tab.getByRole("link", { name, exact: true });
    await sort("Size").focus();
    await tab.keyboard.press("Enter");
    await tab.waitForURL(/sort=size&order=desc/);
    assertEquals(await sorted(), ["Size", ["p.svg", "f9.txt"]]);
    await sort("Size").click();
    await tab.waitForURL(/sort=size&order=asc/);
    assertEquals((await namesOf(tab)).slice(-2), ["f9.txt", "p.svg"]);
    await tab.getByRole("link", { name: "Grid" }).click();
    await tab.waitForURL(/sort=size&order=asc&view=grid/);
    assertEquals(await tab.locator("img").evaluateAll((images) => images.length), 1);
    await tab.getByRole("searchbox").fill("F1");
    await tab.keyboard.press("Enter");
    await tab.waitForURL(/q=F1&sort=size&order=asc&view=grid/);
    assertEquals(await namesOf(tab), ["f10.txt"]);
    await tab.getByRole("link", { name: "Show all" }).click();
    await tab.getByRole("link", { name: "sub" }).click();
    await tab.waitForURL(/sub\/\?view=grid$/);
    assertEquals([await tab.title(), await namesOf(tab)], ["sub", ["deep", "x.txt"]]);
    await tab.getByRole("link", { name: "Parent folder" }).click();
    await tab.waitForURL(`${server.url}?view=grid`);
    await tab.getByRole("link", { name: "List" }).click();
    assertEquals(await namesOf(tab), LISTED_NAMES);
    await tab.goto(`${server.url}empty/`);
    assertEquals(await tab.getByRole("status").innerText(), "This folder is empty.");
  }
});

test("a listing filters while one types, also a listing that the server filtered", async () => {
  await using site = await Site.lay(LISTED);
  await using server = await serve(site.root);
  for (const view of ["", "?view=grid"]) {
    await using tab = await openTab();
    await tab.goto(server.url + view);
    const input = tab.getByRole("searchbox");
    const status = async () => [await namesOf(tab), await tab.getByRole("status").innerText()];
    const [all, summary] = await status();
    await input.pressSequentially("F1");
    assertEquals(await status(), [["f10.txt"], "1 of 11 names"]);
    await input.pressSequentially("x");
    assertEquals(await status(), [[], "No names contain \u201cF1x\u201d."]);
    await input.fill("");
    assertEquals([await status(), await tab.getByText("Show all").isVisible()], [[all, summary], false]);
    await input.fill("F1x");
    await input.press("Enter");
    await tab.waitForURL(/q=F1x/);
    assertEquals(await status(), [[], "No names contain \u201cF1x\u201d."]);
    await tab.keyboard.press("End");
    await tab.keyboard.press("Backspace"); // in the filter, which has the focus
    await tab.waitForURL(/q=F1&/);
    assertEquals((await status())[0], ["f10.txt"]);
    await tab.getByRole("link", { name: "Show all" }).click();
    await tab.waitForURL((url) => !url.searchParams.has("q"));
    assertEquals(await status(), [all, summary]);
  }
});

test("a listing works under a strict content-security policy", async () => {
  await using site = await Site.lay(LISTED);
  await using server = await serve(site.root, "--header", "Content-Security-Policy: default-src 'none'");
  await using tab = await openTab(DESKTOP);
  await tab.goto(server.url);
  await tab.getByRole("searchbox").fill("F1");
  assertEquals(await namesOf(tab), LISTED_NAMES);
  await tab.keyboard.press("Enter");
  await tab.waitForURL(/q=F1/);
  assertEquals(await namesOf(tab), ["f10.txt"]);
});

test("a listing has columns at fixed places, and icons beside names of any length", async () => {
  await using site = await Site.lay(LISTED);
  await using server = await serve(site.root);
  await using tab = await openTab(DESKTOP);
  const columns = new Set<string>();
  for (const path of ["", "sub/", "sub/deep/", "?q=f9"]) {
    await tab.goto(server.url + path);
    const left = (cell: Element) => Math.round(cell.getBoundingClientRect().left);
    columns.add(`${await tab.locator("th").evaluateAll((cells, left) => cells.map(eval(left)), `(${left})`)}`);
  }
  assertEquals(columns.size, 1, [...columns].join(" / "));
  await tab.goto(server.url);
  const tops = await tab.locator("tbody a").evaluateAll((links) =>
    links.map((link) => link.querySelector("bdi")!.getBoundingClientRect().top - link.getBoundingClientRect().top)
  );
  assertEquals(new Set(tops).size, 1, `${tops}`);
});

test("a listing and an error page fit every window, with large targets and enough contrast", async () => {
  await using site = await Site.lay(LISTED);
  await using server = await serve(site.root);
  const paths = [
    "",
    "?view=grid",
    "sub/deep/a/bc/folder%20with%20spaces/",
    "empty/",
    "?q=nothing-contains-this",
    "no/thing",
  ];
  for (const options of [DESKTOP, PHONE, SMALL]) {
    for (const colorScheme of ["light", "dark"] as const) {
      await using tab = await openTab({ ...options, colorScheme });
      for (const path of paths) {
        await tab.goto(server.url + path);
        const where = `${path} ${options.viewport!.width} ${colorScheme}`;
        const [wide, window] = await tab.evaluate(() => [document.documentElement.scrollWidth, innerWidth]);
        assert(wide! <= window!, `${where}: ${wide} > ${window}`);
        assertEquals(await tab.evaluate(faintTexts), [], where);
        if (options.hasTouch) assertEquals(await tab.evaluate(smallTargets), [], where);
      }
    }
  }
  await using tab = await openTab(DESKTOP);
  await tab.goto(server.url);
  for (let count = 0; count < 8; count++) {
    await tab.keyboard.press("Tab");
    const outline = await tab.evaluate(() => getComputedStyle(document.activeElement!).outline);
    assertMatch(outline, /solid [1-9]/, `${count}`);
  }
});

/** Returns the links and inputs of a page that are too small for a finger (WCAG 2.2, 2.5.5). */
function smallTargets(): string[] {
  return [...document.querySelectorAll("a, input")].flatMap((target) => {
    const { width, height } = target.getBoundingClientRect();
    const isHidden = width === 0 && height === 0;
    return isHidden || width >= 43.9 && height >= 43.9 ? [] : [`${target.outerHTML}: ${width} x ${height}`];
  });
}

/** Returns the texts of a page whose contrast is too low (WCAG 2.2, 1.4.3). */
function faintTexts(): string[] {
  const rgb = (color: string) => (color.match(/[\d.]+/g) ?? []).map(Number);
  const luminance = (color: string) => {
    const [r = 0, g = 0, b = 0] = rgb(color).map((value) => {
      const part = value / 255;
      return part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4;
    });
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const backgroundOf = (element: Element | null): string => {
    if (element === null) return "rgb(255, 255, 255)";
    const { backgroundColor } = getComputedStyle(element);
    return rgb(backgroundColor)[3] === 0 ? backgroundOf(element.parentElement) : backgroundColor;
  };
  return [...document.querySelectorAll("a, td, th, p, h1, bdi, input")].flatMap((element) => {
    const [low = 0, high = 0] = [getComputedStyle(element).color, backgroundOf(element)].map(luminance)
      .sort((one, other) => one - other);
    const contrast = (high + 0.05) / (low + 0.05);
    return contrast < 4.5 ? [`${element.outerHTML}: ${contrast}`] : [];
  });
}

/** Returns a silent WAV file with 8,000 samples of 2 bytes per second. */
function makeAudio(seconds: number): Uint8Array {
  const view = new DataView(new ArrayBuffer(44 + 16_000 * seconds));
  const ascii = (offset: number, text: string) =>
    [...text].forEach((c, i) => view.setUint8(offset + i, c.charCodeAt(0)));
  ascii(0, "RIFF");
  view.setUint32(4, view.byteLength - 8, true);
  ascii(8, "WAVEfmt ");
  [16, 0x10001, 8000, 16_000, 0x100002].forEach((value, i) => view.setUint32(16 + 4 * i, value, true));
  ascii(36, "data");
  view.setUint32(40, view.byteLength - 44, true);
  return new Uint8Array(view.buffer);
}

for (const mode of [[], ["--live"]]) {
  test(`an audio element seeks${mode.map((flag) => ` with ${flag}`)}`, async () => {
    await using site = await Site.lay({
      "index.html": page("one", `<audio src="a.wav" preload="metadata"></audio>`),
      "a.wav": makeAudio(3600),
    });
    await using server = await serve(site.root, ...mode);
    await using tab = await openTab();
    await tab.goto(server.url);
    const range = tab.waitForResponse((response) => /^bytes [1-9]/.test(response.headers()["content-range"] ?? ""));
    const time = await tab.evaluate(async () => {
      const audio = document.querySelector("audio")!;
      if (audio.readyState === 0) await new Promise((resolve) => audio.onloadedmetadata = resolve);
      const seeked = new Promise((resolve) => audio.onseeked = resolve);
      audio.currentTime = 3000;
      await seeked;
      await audio.play();
      return [audio.duration, Math.floor(audio.currentTime), audio.error];
    });
    assertEquals(time, [3600, 3000, null]);
    assertEquals((await range).status(), 206);
  });
}

test("a page over HTTPS uses HTTP/2 and reloads", async () => {
  await using site = await Site.lay({ "index.html": page("one", `<script src="a.js"></script>`), "a.js": "0" });
  await using server = await serve(site.root, "--live", "--https");
  await using tab = await openTab({ ignoreHTTPSErrors: true });
  await tab.goto(server.url);
  const protocols = await tab.evaluate(() => {
    const entries = [...performance.getEntriesByType("navigation"), ...performance.getEntriesByType("resource")];
    return entries.map((entry) => (entry as PerformanceResourceTiming).nextHopProtocol);
  });
  assert(protocols.length >= 2);
  assertEquals(new Set(protocols), new Set(["h2"]));
  site.write({ "index.html": page("two") });
  await shows(tab, "two");
  assertEquals(await server.stop(), 0);
});

test("a browser shows a page only with the right password, and reloads it", async () => {
  await using site = await Site.lay({ "index.html": page("one", `<img src="a.svg">`), "a.svg": "<svg/>" });
  await using server = await serve(site.root, "--live", "--auth", "jürgen:geheim: ü");
  const open = async (password?: string) => {
    const httpCredentials = password === undefined ? undefined : { username: "jürgen", password };
    const tab = await openTab({ httpCredentials });
    return { tab, response: await tab.goto(server.url), [Symbol.asyncDispose]: () => tab.close() };
  };
  await assertRejects(() => open(), Error, "ERR_INVALID_AUTH_CREDENTIALS"); // the login dialog was cancelled
  for (const password of ["geheim", "geheim: u"]) { // the second login dialog is cancelled
    await using wrong = await open(password);
    assertEquals(wrong.response?.status(), 401);
    assertEquals(await wrong.tab.evaluate(() => document.body.innerText.trim()), "401 Unauthorized");
    assert(!(await wrong.response!.text()).includes("live-reload"), "the page of a 401 contains the script");
  }
  await using right = await open("geheim: ü");
  const { tab, response } = right;
  assertEquals(response?.status(), 200);
  await shows(tab, "one");
  site.write({ "index.html": page("two") });
  await shows(tab, "two");
  assertEquals(await server.stop(), 0);
  assert(!/geheim|[jJ]ürgen|anVlcmdlbg|asO8cmdlbg/.test(server.log), server.log);
  assert(!server.log.includes("/.live-reload/"), "the log contains requests of live reload");
});
