/**
 * Tries http-server in a real browser, headless: `deno task test-browser`.
 *
 * It needs Chromium, which `.ci/run` installs where it can; without it every test is ignored. Each test starts the
 * server as a person does, in a process of its own with network and read access alone.
 *
 * @module
 */

/// <reference lib="dom" />
// deno-lint-ignore-file no-import-prefix -- what a browser test needs is no part of the product, whose deno.json has the others
import { assert, assertEquals, assertMatch, assertRejects } from "@std/assert";
import { join } from "@std/path";
import { chromium, type Page } from "npm:playwright-core@1.65";
import { createHandler } from "../server.ts";
import { makeCertificate } from "./certificate.ts";
import { Served, Site } from "./fixtures.ts";

const executablePath = ["chromium", "chromium-browser", "google-chrome"].map((name) => `/usr/bin/${name}`).find(exists);

function exists(file: string): boolean {
  try {
    return Deno.statSync(file).isFile;
  } catch {
    return false;
  }
}

function test(name: string, fn: () => Promise<void>): void {
  Deno.test({ name, ignore: executablePath === undefined, fn });
}

/** Starts a browser; nothing but the server is to be asked for anything. */
async function launch() {
  const quietly = ["quic", "background-networking", "component-update", "sync"].map((name) => `--disable-${name}`);
  const browser = await chromium.launch({
    executablePath,
    args: ["--no-sandbox", "--disable-gpu", "--no-first-run", "--autoplay-policy=no-user-gesture-required", ...quietly],
  });
  return { browser, [Symbol.asyncDispose]: () => browser.close() };
}

function serve(root: string, ...args: string[]): Promise<Served> {
  return Served.start([...args, ...args.includes("--port") ? [] : ["--port", "0"], root]);
}

/** Returns once the page's heading is a text. */
async function shows(page: Page, text: string): Promise<void> {
  await page.waitForFunction((text) => document.querySelector("h1")?.textContent === text, text);
}

/** Counts how often a page is loaded from now on. */
function countLoads(page: Page): () => number {
  let count = 0;
  page.on("domcontentloaded", () => count++);
  return () => count;
}

/** Counts how often a page starts to listen for changes. */
function countStreams(page: Page): () => number {
  let count = 0;
  page.on("request", (request) => count += Number(request.url().includes("/events")));
  return () => count;
}

const page = (heading: string, head = "") => `<!doctype html><title>t</title>${head}<h1>${heading}</h1>\n`;

// Live reload -------------------------------------------------------------------------------------------------------

test("a page reloads when its file changes, and is what it is without live reload", async () => {
  await using site = await Site.lay({ "index.html": page("one") });
  await using server = await serve(site.root, "--live");
  await using chrome = await launch();
  const tab = await chrome.browser.newPage();
  await tab.goto(server.url);
  await shows(tab, "one");
  await tab.waitForFunction(() => document.scripts.length === 0);
  site.write({ "index.html": page("two") });
  await shows(tab, "two");
  site.write({ "next.html": page("three") });
  Deno.renameSync(join(site.root, "next.html"), join(site.root, "index.html"));
  await shows(tab, "three");
  // A page may have read any file.
  const read =
    `fetch("sub/a.txt").then((answer) => answer.text()).then((text) => document.querySelector("h1").append(text))`;
  site.write({ "index.html": `${page("four ")}<script>${read}</script>`, "sub/a.txt": "a" });
  await shows(tab, "four a");
  site.write({ "sub/a.txt": "b" });
  await shows(tab, "four b");
  assertEquals(await server.stop(), 0);
});

test("a change to a stylesheet alone swaps it without a reload", async () => {
  const link = `<link rel="stylesheet" href="css/style%20a.css?v=1">`;
  const imported = `<style>@import "css/imported.css";</style>`;
  await using site = await Site.lay({
    "index.html": page("one", link),
    "imported.html": page("one", imported),
    "css/style a.css": "h1 { color: rgb(1, 0, 0) }",
    "css/imported.css": "h1 { color: rgb(1, 0, 0) }",
  });
  await using server = await serve(site.root, "--live");
  await using chrome = await launch();
  const tab = await chrome.browser.newPage();
  const colored = (red: number) =>
    tab.waitForFunction((red) => getComputedStyle(document.querySelector("h1")!).color === `rgb(${red}, 0, 0)`, red);
  await tab.goto(server.url);
  await colored(1);
  const loads = countLoads(tab);
  site.write({ "css/style a.css": "h1 { color: rgb(2, 0, 0) }" });
  await colored(2);
  // As an editor that keeps a copy, and as a compiler that writes a map.
  const file = join(site.root, "css/style a.css");
  Deno.renameSync(file, `${file}~`);
  site.write({ "css/style a.css": "h1 { color: rgb(3, 0, 0) }", "css/style a.css.map": "{}" });
  Deno.removeSync(`${file}~`);
  await colored(3);
  site.write({ "css/temporary": "h1 { color: rgb(4, 0, 0) }" });
  Deno.renameSync(join(site.root, "css/temporary"), file);
  await colored(4);
  assertEquals(loads(), 0);
  // With something else it is a reload; so it is where no element links to the stylesheet.
  site.write({ "css/style a.css": "h1 { color: rgb(5, 0, 0) }", "index.html": page("two", link) });
  await shows(tab, "two");
  await colored(5);
  await tab.goto(`${server.url}imported`);
  await colored(1);
  site.write({ "css/imported.css": "h1 { color: rgb(6, 0, 0) }" });
  await colored(6);
});

test("a page reloads when an image changes", async () => {
  const image = (width: number) => `<svg xmlns="http://www.w3.org/2000/svg" width="${width}" height="1"/>`;
  await using site = await Site.lay({ "index.html": page("one", `<img src="a.svg">`), "a.svg": image(1) });
  await using server = await serve(site.root, "--live");
  await using chrome = await launch();
  const tab = await chrome.browser.newPage();
  const wide = (width: number) => tab.waitForFunction((width) => document.images[0]?.naturalWidth === width, width);
  await tab.goto(server.url);
  await wide(1);
  site.write({ "a.svg": image(2) });
  await wide(2);
});

test("a burst of changes is one reload, after the last of them", async () => {
  await using site = await Site.lay({ "index.html": page("0") });
  // In this process, which writes the whole burst before it hears of the first change.
  const stop = new AbortController();
  const handler = createHandler({ root: site.root, live: true, signal: stop.signal });
  const server = Deno.serve({ port: 0, hostname: "127.0.0.1", onListen() {} }, handler);
  await using chrome = await launch();
  const tab = await chrome.browser.newPage();
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

test("pages come back by themselves when the server does", async () => {
  await using site = await Site.lay({ "index.html": page("one") });
  await using other = await Site.lay({ "index.html": page("another project") });
  await using server = await serve(site.root, "--live");
  const { port } = new URL(server.url);
  await using chrome = await launch();
  const tab = await chrome.browser.newPage();
  await tab.goto(server.url);
  assertEquals(await server.stop(), 0);
  await using _next = await serve(other.root, "--live", "--port", port);
  await shows(tab, "another project");
});

test("a page that is gone in the middle of a build stays until it is back", async () => {
  const build = (text: string) => ({ "dist/index.html": page(text), "dist/sub/about.html": page(`about ${text}`) });
  await using site = await Site.lay(build("one"));
  const dist = join(site.root, "dist");
  await using server = await serve(dist, "--live");
  await using chrome = await launch();
  const tab = await chrome.browser.newPage();
  await tab.goto(server.url);
  await shows(tab, "one");
  const loads = countLoads(tab);
  const isAsked = () => tab.waitForResponse((response) => response.request().method() === "HEAD");

  // A folder that is emptied has a listing in place of its page.
  let asked = isAsked();
  for (const { name } of Deno.readDirSync(dist)) Deno.removeSync(join(dist, name), { recursive: true });
  assertEquals((await asked).status(), 200);
  asked = isAsked();
  site.write({ "dist/other.txt": "" });
  assertEquals((await asked).status(), 200);
  await shows(tab, "one");
  site.write(build("two"));
  await shows(tab, "two");
  assertEquals(loads(), 1);

  // The folder itself is removed and made again: it is watched anew, and that is one reload.
  Deno.removeSync(dist, { recursive: true });
  site.write(build("three"));
  await shows(tab, "three");
  site.write(build("four"));
  await shows(tab, "four");
  assertEquals(loads(), 3);

  await tab.goto(`${server.url}sub/about`);
  asked = isAsked();
  Deno.removeSync(join(dist, "sub"), { recursive: true });
  assertEquals((await asked).status(), 404);
  await shows(tab, "about four");
  site.write(build("five"));
  await shows(tab, "about five");
});

test("the frames of a page leave the connections to others", async () => {
  const frames = `<iframe src="inner.html"></iframe>`.repeat(8);
  await using site = await Site.lay({ "index.html": page("one", frames), "inner.html": page("inner one") });
  await using server = await serve(site.root, "--live");
  await using chrome = await launch();
  const tab = await chrome.browser.newPage();
  const streams = countStreams(tab);
  await tab.goto(server.url);
  await shows(tab, "one");
  site.write({ "inner.html": page("inner two") });
  await tab.waitForFunction(() =>
    [...document.querySelectorAll("iframe")].every((frame) => frame.contentDocument?.body?.innerText === "inner two")
  );
  if (streams() < 2) await tab.waitForRequest(/events/);
  assertEquals(streams(), 2);
});

test("as many pages as a browser has connections for all reload", async () => {
  await using site = await Site.lay({ "index.html": page("one") });
  await using server = await serve(site.root, "--live");
  await using chrome = await launch();
  const context = await chrome.browser.newContext();
  const tabs = [];
  for (let i = 0; i < 6; i++) tabs.push(await context.newPage());
  for (const tab of tabs) await tab.goto(server.url);
  for (const text of ["two", "three"]) {
    site.write({ "index.html": page(text) });
    for (const tab of tabs) await shows(tab, text);
  }
});

test("a page with frames reloads, for their stylesheets can't be told from here", async () => {
  const link = `<link rel="stylesheet" href="a.css">`;
  await using site = await Site.lay({
    "index.html": page("one", `${link}<iframe src="inner.html"></iframe>`),
    "inner.html": page("inner", link),
    "a.css": "h1 { color: rgb(1, 0, 0) }",
  });
  await using server = await serve(site.root, "--live");
  await using chrome = await launch();
  const tab = await chrome.browser.newPage();
  await tab.goto(server.url);
  const loads = countLoads(tab);
  site.write({ "a.css": "h1 { color: rgb(2, 0, 0) }" });
  await tab.waitForFunction(() =>
    [document, document.querySelector("iframe")?.contentDocument].every((document) => {
      const heading = document?.querySelector("h1");
      return heading && getComputedStyle(heading).color === "rgb(2, 0, 0)";
    })
  );
  assertEquals(loads(), 1);
});

test("a fragment that a page asks for is what it is without live reload, and starts no second one", async () => {
  const include = `<div></div><script>fetch("part.html").then((answer) => answer.text())
    .then((text) => document.querySelector("div").innerHTML = text)</script>`;
  await using site = await Site.lay({ "index.html": page("one") + include, "part.html": "<p>part</p>" });
  await using server = await serve(site.root, "--live");
  await using chrome = await launch();
  const tab = await chrome.browser.newPage();
  const streams = countStreams(tab);
  await tab.goto(server.url);
  await tab.waitForFunction(() => document.querySelector("div")?.innerHTML === "<p>part</p>");
  // Where one comes with the script all the same, and has it run, the page still listens once.
  await tab.evaluate(() => {
    const script = Object.assign(document.createElement("script"), { src: "/.live-reload/script.js?again" });
    document.body.append(script);
    return new Promise((resolve) => script.onload = resolve);
  });
  site.write({ "part.html": "<p>other</p>" });
  await tab.waitForFunction(() => document.querySelector("div")?.innerHTML === "<p>other</p>");
  if (streams() < 2) await tab.waitForRequest(/events/);
  assertEquals(streams(), 2);
});

test("a page that may not listen gives up at once", async () => {
  await using site = await Site.lay({ "index.html": page("one") });
  const policy = "Content-Security-Policy: default-src 'none'; script-src 'self'";
  await using server = await serve(site.root, "--live", "--header", policy);
  await using chrome = await launch();
  const tab = await chrome.browser.newPage();
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
    Object.assign(globalThis, { setTimeout: () => document.body.append("It tries again.") });
  });
  await tab.goto(server.url);
  await tab.waitForFunction(() => document.title === "failed");
  assertEquals((await tab.evaluate(() => document.body.innerText)).trim(), "one");
  assertMatch(failures.join(), /^[^,]*connect[^]*Content Security Policy/i);
});

test("pages that nobody sees hold no connection, and catch up when they are seen", async () => {
  await using site = await Site.lay({ "index.html": page("one") });
  await using server = await serve(site.root, "--live");
  await using chrome = await launch();
  const context = await chrome.browser.newContext(); // of which every page is in sight, or so it is told
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

test("live reload heeds a page's content-security policy, and works with every kind of page", async () => {
  await using site = await Site.lay({ "index.html": page("one"), "404.html": page("not there"), "sub/a.txt": "a" });
  const policy = "Content-Security-Policy: default-src 'self'; style-src 'unsafe-inline'";
  await using server = await serve(site.root, "--live", "--header", policy);
  await using chrome = await launch();
  const tab = await chrome.browser.newPage();
  await tab.goto(`${server.url}nowhere`);
  await shows(tab, "not there");
  site.write({ "404.html": page("still not there") });
  await shows(tab, "still not there");
  site.write({ "nowhere.html": page("there") });
  await shows(tab, "there");
  await tab.goto(`${server.url}sub/`);
  site.write({ "sub/b.txt": "b" });
  await tab.locator("a", { hasText: "b.txt" }).waitFor();
});

// The rest ----------------------------------------------------------------------------------------------------------

test("each link of a listing opens, however odd the name", async () => {
  const names = ["a b", "a#b", "a%b", "%41", "a+b", "a&b;c=d", "it's", "é", "é".normalize("NFD"), "😀", '"q"', "a?b"];
  names.push("<b>", "a:b", "javascript:alert(1)", "~!$(),@[]{}^`", " ", "new\nline", "a..", "a\tb");
  const files = names.map((name) => `${name}.txt`);
  await using site = await Site.lay(Object.fromEntries(files.map((name) => [`odd #%é/${name}`, `It is ${name}`])));
  await using server = await serve(site.root);
  await using chrome = await launch();
  const tab = await chrome.browser.newPage();
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

test("a listing sorts, filters and shows pictures without a script, and fits a phone", async () => {
  const long = `${"long-name-without-a-space".repeat(8)}.txt`;
  const svg = '<svg xmlns="http://www.w3.org/2000/svg" width="40" height="30"><rect width="40" height="30"/></svg>';
  await using site = await Site.lay({ "f9.txt": "12345", "f10.txt": "1", [long]: "", "p.svg": svg, "sub/x": "" });
  await using server = await serve(site.root);
  await using chrome = await launch();
  const phone = { width: 360, height: 640 };
  const kinds = {
    desktop: { viewport: { width: 1000, height: 700 } },
    phone: { viewport: phone, isMobile: true, hasTouch: true },
  };
  for (const [kind, options] of Object.entries(kinds)) {
    for (const colorScheme of ["light", "dark"] as const) {
      const context = await chrome.browser.newContext({ ...options, colorScheme, javaScriptEnabled: true });
      const tab = await context.newPage();
      const requested: string[] = [];
      tab.on("request", (request) => requested.push(new URL(request.url()).pathname));
      await tab.goto(server.url);
      const names = () => tab.locator("td a").allTextContents();
      assertEquals(await names(), ["sub", "f9.txt", "f10.txt", long, "p.svg"]);
      assertEquals(requested, ["/"], "no favicon, no style, no script");
      const width = () => tab.evaluate(() => [document.documentElement.scrollWidth, innerWidth]);
      const [wide, window] = await width();
      assert(wide! <= window!, `${kind}: ${wide} > ${window}`);
      assertEquals(await tab.locator("td:nth-child(3)").first().isVisible(), kind === "desktop");
      if (kind === "phone") {
        for (const target of await tab.locator("a, input[type=search]").all()) {
          const box = await target.boundingBox();
          if (box === null) continue; // the column that phones don't show
          assert(box.height >= 43.9 && box.width >= 43.9, `${await target.textContent()}: ${JSON.stringify(box)}`);
        }
      }
      await tab.getByRole("link", { name: "Size" }).focus();
      await tab.keyboard.press("Enter");
      await tab.waitForURL(/sort=size/);
      assertEquals(await names(), ["sub", "p.svg", "f9.txt", "f10.txt", long]);
      await tab.getByRole("searchbox").fill("F1");
      await tab.keyboard.press("Enter");
      await tab.waitForURL(/q=F1/);
      assertEquals([await names(), /sort=size/.test(tab.url())], [["f10.txt"], true]);
      await tab.goto(server.url);
      await tab.getByRole("link", { name: "Pictures" }).click();
      await tab.waitForFunction(() => document.querySelector("img")?.naturalWidth === 40);
      const [wideGrid, windowGrid] = await width();
      assert(wideGrid! <= windowGrid!, `${kind}: ${wideGrid} > ${windowGrid}`);
      await tab.getByRole("link", { name: "List" }).click();
      await tab.getByRole("link", { name: "sub" }).click();
      await tab.waitForURL(/sub\/$/);
      assertEquals([await tab.title(), await names()], ["sub", ["x"]]);
      await tab.locator("h1 a").click();
      await tab.waitForURL(server.url);
      await context.close();
    }
  }
});

/** Returns silence of a length as a WAV file: 8,000 samples of 2 bytes a second. */
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
  test(`an audio element seeks ${mode}`, async () => {
    await using site = await Site.lay({
      "index.html": page("one", `<audio src="a.wav" preload="metadata"></audio>`),
      "a.wav": makeAudio(3600),
    });
    await using server = await serve(site.root, ...mode);
    await using chrome = await launch();
    const tab = await chrome.browser.newPage();
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

test("a page over HTTPS comes with HTTP/2, and reloads", async () => {
  const { cert, key } = await makeCertificate();
  await using pair = await Site.lay({ "cert.pem": cert, "key.pem": key });
  await using site = await Site.lay({ "index.html": page("one", `<script src="a.js"></script>`), "a.js": "0" });
  const files = ["--cert", join(pair.root, "cert.pem"), "--key", join(pair.root, "key.pem")];
  await using server = await serve(site.root, "--live", ...files);
  await using chrome = await launch();
  const tab = await chrome.browser.newPage({ ignoreHTTPSErrors: true });
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

test("a browser asks for the password, then gets the page, and reloads it", async () => {
  await using site = await Site.lay({ "index.html": page("one", `<img src="a.svg">`), "a.svg": "<svg/>" });
  await using server = await serve(site.root, "--live", "--auth", "jürgen:geheim: ü");
  await using chrome = await launch();
  const open = async (password?: string) => {
    const httpCredentials = password === undefined ? undefined : { username: "jürgen", password };
    const tab = await (await chrome.browser.newContext({ httpCredentials })).newPage();
    return { tab, answer: await tab.goto(server.url) };
  };
  await assertRejects(() => open(), Error, "ERR_INVALID_AUTH_CREDENTIALS"); // it asked, and nobody was there
  for (const password of ["geheim", "geheim: u"]) { // it asked again, and was told to leave it
    const { tab, answer } = await open(password);
    assertEquals(answer?.status(), 401);
    assertEquals(await tab.evaluate(() => document.body.innerText.trim()), "401 Unauthorized");
  }
  const { tab, answer } = await open("geheim: ü");
  assertEquals(answer?.status(), 200);
  await shows(tab, "one");
  site.write({ "index.html": page("two") });
  await shows(tab, "two");
  assertEquals(await server.stop(), 0);
  assert(!/geheim|[jJ]ürgen|anVlcmdlbg|asO8cmdlbg/.test(server.log), server.log);
  assert(!server.log.includes("/.live-reload/"), "requests of live reload are in the log");
});
