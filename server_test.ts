/**
 * Tests of http-server, in the order of the sections of server.ts. Run them with `deno task test`.
 *
 * Tests that depend on the machine are ignored elsewhere: some permission tests need root, because only root can drop its
 * rights temporarily, tests that count open files or bytes read need Linux, and tests of signals or links need a system
 * that has them.
 *
 * @module
 */

import {
  assert,
  assertEquals,
  assertMatch,
  assertNotEquals,
  assertRejects,
  assertStringIncludes,
  assertThrows,
  fail,
} from "@std/assert";
import { basename, dirname, join, SEPARATOR } from "@std/path";
import { createPrivateKey, X509Certificate } from "node:crypto";
import http2 from "node:http2";
import process from "node:process";
import tls from "node:tls";
import {
  brotliCompressSync,
  brotliDecompressSync,
  constants as zlib,
  gunzipSync,
  gzipSync,
  zstdCompressSync,
  zstdDecompressSync,
} from "node:zlib";
import {
  type Answer,
  CAN_DROP_RIGHTS,
  CAN_REPLACE,
  chmod,
  type Finished,
  HAS_LINKS,
  here,
  link,
  openFiles,
  PERMISSIONS,
  RawClient,
  removeFolder,
  script,
  Served,
  Site,
  until,
  within,
  withoutRights,
} from "./.ci/fixtures.ts";
import { fuzz } from "./.ci/fuzz.ts";
import {
  acceptedEncodings,
  createHandler,
  evaluatePreconditions,
  type Handler,
  helpText,
  isHidden,
  LIMITS,
  main,
  makeCertificate,
  type Options,
  parseRange,
  resolvePath,
  type UrlPath,
  usableAddresses,
  VERSION,
} from "./server.ts";

// Helpers -----------------------------------------------------------------------------------------------------------

const isWindows = Deno.build.os === "windows";
const isLinux = Deno.build.os === "linux";
const isRoot = !isWindows && Deno.uid() === 0 && CAN_DROP_RIGHTS;

/** Whether a test can be without permission for a file. Windows has no modes, and root may read everything. */
const canBeDenied = !isWindows && (Deno.uid() !== 0 || CAN_DROP_RIGHTS);

/** Deno 2.5 is still supported, but some tests need what later versions have. */
const isOldDeno = /^2\.[0-6]\./.test(Deno.version.deno);

/** Whether {@linkcode openFiles} works. */
const CAN_SEE_OPEN_FILES = isLinux || isWindows;

/** The best encoding of responses that the server compresses. */
const BEST = isOldDeno ? "gzip" : "zstd";

const encoder = new TextEncoder();
const decoder = new TextDecoder();

/** A clock one minute ahead, so that new files are old enough to be cached and to have a Last-Modified header. */
const later = () => Date.now() + 60_000;

/** Options of a handler for tests; it reaches the given limits sooner. */
type TestOptions = Partial<Omit<Options, "limits">> & { limits?: Partial<typeof LIMITS> };

/** Returns a handler that treats new files as old. */
function handlerFor({ limits, ...options }: TestOptions): Handler {
  return createHandler({ now: later, ...options, limits: { ...LIMITS, ...limits } });
}

/** With this limit, a test of files that are not read into memory needs no megabytes. */
const SMALL_READS = { readSize: 32 << 10 };

/** Runs each row of a table as a separate test step. */
async function each<T>(t: Deno.TestContext, rows: T[], name: (row: T) => unknown, fn: (row: T) => unknown) {
  for (const row of rows) await t.step(String(name(row)).slice(0, 80) || "empty", async () => void await fn(row));
}

/** Runs all rows of a table at the same time, and reports each as a separate test step. */
async function eachAtOnce<T>(t: Deno.TestContext, rows: T[], name: (row: T) => unknown, fn: (row: T) => unknown) {
  const outcomes = await Promise.allSettled(rows.map(async (row) => void await fn(row)));
  await each(t, [...rows.entries()], ([, row]) => name(row), ([index]) => {
    const outcome = outcomes[index]!;
    if (outcome.status === "rejected") throw outcome.reason;
  });
}

/** Runs a function and returns the lines that it writes to stderr. */
async function stderrOf(fn: () => unknown): Promise<string[]> {
  const { write } = Deno.stderr;
  const lines: string[] = [];
  try {
    Deno.stderr.write = (bytes) => {
      lines.push(decoder.decode(bytes).trimEnd());
      return Promise.resolve(bytes.length);
    };
    await fn();
  } finally {
    Deno.stderr.write = write;
  }
  return lines;
}

/** Sends a request to a handler. The URL parser normalizes the path; use {@linkcode RawClient} for hostile paths. */
async function fetchFrom(handler: Handler, path: string, init: RequestInit = {}): Promise<Answer> {
  const response = await handler(new Request(`http://localhost${path}`, init));
  return { status: response.status, headers: response.headers, text: await response.text() };
}

function get(handler: Handler, path: string, headers?: Record<string, string>): Promise<Answer> {
  return fetchFrom(handler, path, { headers });
}

/** Starts a server in this process on a free port. */
function start(handlerOrOptions: Partial<Options> | Handler) {
  const handler = typeof handlerOrOptions === "function" ? handlerOrOptions : createHandler(handlerOrOptions);
  const server = Deno.serve({ port: 0, hostname: "127.0.0.1", onListen() {} }, handler);
  const { port } = server.addr as Deno.NetAddr;
  return { port, server, [Symbol.asyncDispose]: () => server.shutdown() };
}

/** Sends one request over a new connection, without normalizing the target. */
async function rawGet(
  port: number,
  target: string,
  headers = "Host: localhost\r\n",
  method = "GET",
  hostname?: string,
): Promise<Answer> {
  using client = await RawClient.connect(port, hostname);
  await client.send(`${method} ${target} HTTP/1.1\r\n${headers}Connection: close\r\n\r\n`);
  return await within(client.receive(method), `a response to ${target.slice(0, 100)}`) ??
    fail(`no response to ${target}`);
}

/** Requests a path and decodes the response body. */
async function getDecoded(handler: Handler, path: string, accept: string, method = "GET"): Promise<Answer> {
  const response = await handler(
    new Request(`http://localhost${path}`, { method, headers: { "accept-encoding": accept } }),
  );
  const bytes = await response.bytes();
  const decode = { br: brotliDecompressSync, gzip: gunzipSync, zstd: zstdDecompressSync }[
    response.headers.get("content-encoding") ?? ""
  ];
  const plain = decode === undefined || bytes.length === 0 ? bytes : decode(bytes);
  return { status: response.status, headers: response.headers, text: decoder.decode(plain) };
}

/** Returns the number of bytes that this process reads from large files while a function runs; on Linux, of all its reads. */
async function bytesRead(fn: () => Promise<unknown>): Promise<number> {
  const { read } = Deno.FsFile.prototype;
  let bytes = 0;
  const count = () => isLinux ? Number(/^rchar: (\d+)/.exec(Deno.readTextFileSync("/proc/self/io"))![1]) : bytes;
  try {
    Deno.FsFile.prototype.read = async function (buffer) {
      const length = await read.call(this, buffer);
      bytes += length ?? 0;
      return length;
    };
    const before = count();
    await fn();
    return count() - before;
  } finally {
    Deno.FsFile.prototype.read = read;
  }
}

/**
 * Runs a function while the named files can't be opened. Root runs it as another user, who must have no rights for them. On
 * other systems the functions that open files fail.
 */
async function withoutAccess<T>(files: string[], fn: () => Promise<T>): Promise<T> {
  if (isRoot) return await withoutRights(fn);
  const fs = process.getBuiltinModule("node:fs");
  const { openSync } = fs;
  const { open } = Deno;
  const refuse = (path: unknown) => {
    if (files.includes(String(path))) throw new Deno.errors.PermissionDenied("no rights");
  };
  try {
    fs.openSync = (path, ...rest) => (refuse(path), openSync(path, ...rest));
    Deno.open = async (path, options) => (refuse(path), await open(path, options));
    return await fn();
  } finally {
    [Deno.open, fs.openSync] = [open, openSync];
  }
}

/** Waits until the disk's clock is past a file's change time, so that later changes are visible in its times. */
async function clockTick(file: string): Promise<void> {
  const { ctime } = await Deno.stat(file);
  const probe = await Deno.makeTempFile({ dir: dirname(file) });
  await until(async () => {
    await Deno.writeTextFile(probe, "");
    return (await Deno.stat(probe)).ctime!.getTime() > ctime!.getTime();
  }, "a tick of the disk's clock");
  await Deno.remove(probe);
}

/** Returns the index of the first difference, or -1. `assertEquals` is slow for millions of bytes. */
function indexOfDifference(one: Uint8Array, other: Uint8Array): number {
  if (one.length !== other.length) return Math.min(one.length, other.length);
  return one.findIndex((byte, index) => byte !== other[index]);
}

/** Returns an Authorization header with the credentials in UTF-8. */
function basic(credentials: string, scheme = "Basic"): Record<string, string> {
  return { authorization: `${scheme} ${encoder.encode(credentials).toBase64()}` };
}

const MODIFIED = "Sun, 06 Nov 1994 08:49:37 GMT";

const EARLIER = "Sun, 06 Nov 1994 08:49:36 GMT";

const LATER = "Sun, 06 Nov 1994 08:49:38 GMT";

/** Names that need escaping in a URL, in HTML or in both, without those that Windows does not allow. */
const ODD_NAMES = [
  "a b.txt",
  "a#b.txt",
  "a%b.txt",
  "%41.txt",
  "%2e%2e",
  "a+b.txt",
  "a&b;c=d.txt",
  "it's.txt",
  "é-nfc.txt".normalize("NFC"),
  "é-nfd.txt".normalize("NFD"),
  "emoji 😀.txt",
  "~tilde!$(),@[]{}^`.txt",
  "javascript.txt",
  ...isWindows
    ? []
    : ['"quoted".txt', "<script>alert(1)<-script>.txt", "a?b.txt", "a:b.txt", "javascript:alert(1)", " ", "new\nline"],
];

/** Returns the URLs that a listing links to, in order. */
function linksIn(listing: string): string[] {
  return [...listing.matchAll(/<tr[^>]*><td><a href="([^"]*)">/g)].map(([, href]) => unescapeHtml(href!));
}

function unescapeHtml(text: string): string {
  return text.replace(/&#(\d+);/g, (_, code) => String.fromCharCode(Number(code)));
}

/** Returns the names linked in a listing, in order. */
function namesIn(listing: string): string[] {
  return linksIn(listing).map((link) => decodeURIComponent(link.replace(/^\.\//, "")));
}

/** Creates a handler with live reload that stops at the end of the test. */
function startLive(site: Site, { limits, ...options }: TestOptions = {}) {
  const stop = new AbortController();
  const handler = handlerFor({
    ...{ root: site.root, live: true, signal: stop.signal, ...options },
    limits: { sweepRest: 10, ...limits },
  });
  const end = async () => {
    stop.abort();
    await new Promise((resolve) => setTimeout(resolve)); // a running sweep ends
  };
  return { handler, stop, [Symbol.asyncDispose]: end };
}

/** Headers of a request when a browser goes to a page. */
const NAVIGATION = { "sec-fetch-mode": "navigate", "accept": "text/html,*/*;q=0.8" };

/** Returns the version of the site from a page's script element. */
function versionIn(text: string): string {
  return /<script async src="[^"]*\/\.live-reload\/script\.js\?([\w-]+)"( data-stand-in)?><\/script>/.exec(text)?.[1] ??
    fail(text);
}

interface Change {
  version: string;
  styles?: string[]; // to swap; without them, the page reloads
}

/** Opens an event stream for a page of a version. */
async function listen(handler: Handler, version: string) {
  const response = await handler(new Request(`http://localhost/.live-reload/events?${version}`));
  assertEquals([response.status, response.headers.get("content-type")], [200, "text/event-stream"]);
  assertEquals(response.headers.get("cache-control"), "no-store");
  const reader = response.body!.pipeThrough(new TextDecoderStream()).getReader();
  return {
    /** Returns the next event, or undefined at the end of the stream. */
    async next(): Promise<Change | undefined> {
      for (;;) {
        const { value, done } = await within(reader.read(), "a live-reload event");
        if (done) return undefined;
        if (value === "retry:1000\n\n") continue;
        const [, data] = /^data:(.*)\n\n$/.exec(value) ?? fail(value);
        return JSON.parse(data!);
      }
    },
    async cancel(): Promise<void> {
      await reader.cancel();
      await new Promise((resolve) => setTimeout(resolve)); // until the handler has learned of it
    },
  };
}

/** Runs http-server until it exits, for command lines that do not start a server. */
async function run(args: string[], permissions = PERMISSIONS): Promise<Finished> {
  const child = new Deno.Command(Deno.execPath(), {
    args: ["run", "--quiet", "--no-prompt", ...permissions, script, ...args],
    stdin: "null",
    stdout: "piped",
    stderr: "piped",
  }).spawn();
  const what = `the exit of http-server ${args.join(" ")}`;
  const { code, stdout, stderr } = await within(child.output(), what, () => child.kill("SIGKILL"));
  return { code, stdout: decoder.decode(stdout), stderr: decoder.decode(stderr) };
}

/** Arguments with which no server can start by mistake: no interface has this address. */
const NOWHERE = ["--port", "0", "--host", "192.0.2.1"];

/** Runs `main` in this process and returns its exit code and output. */
async function runMain(args: string[], limits: typeof LIMITS = LIMITS): Promise<Finished> {
  const { log, error } = console;
  const { write } = Deno.stderr;
  const output = { stdout: "", stderr: "" };
  try {
    Deno.stderr.write = (bytes) => {
      output.stderr += decoder.decode(bytes);
      return Promise.resolve(bytes.length);
    };
    console.log = (text: string) => output.stdout += `${text}\n`;
    console.error = (text: string) => output.stderr += `${text}\n`;
    return { code: await main(args, limits), ...output };
  } finally {
    Object.assign(console, { log, error });
    Deno.stderr.write = write;
  }
}

/** Splits the path of a file into its drive, which only Windows has, and the URL path below the drive's root. */
function splitDrive(file: string): [drive: string, path: string] {
  const [drive = ""] = /^[A-Z]:/i.exec(file) ?? [];
  return [drive, file.slice(drive.length).replaceAll("\\", "/")];
}

// Handler ------------------------------------------------------------------------------------------------------------

Deno.test("handler() serves index.html, a listing or a 404 for a folder", async () => {
  await using outside = await Site.lay({ "secret.txt": "SECRET" });
  await using site = await Site.lay({
    "index.html": "root",
    "linked/real.html": "linked index",
    "linked/index.html": { link: "real.html" },
    "bare/a.txt": "a",
    "odd/index.html/x": "an index that is a folder",
    "leak": null,
    "leak/index.html": { link: outside.file("secret.txt") },
  });
  const handler = handlerFor({ root: site.root });
  assertEquals((await get(handler, "/")).text, "root");
  if (HAS_LINKS) assertEquals((await get(handler, "/linked/")).text, "linked index");
  for (const folder of ["/bare/", "/odd/", "/leak/"]) {
    const { status, headers, text } = await get(handler, folder);
    assertEquals([status, headers.get("content-type")], [200, "text/html; charset=UTF-8"], folder);
    assertStringIncludes(text, `<title>${folder.slice(1, -1)}</title>`);
    assertEquals([headers.get("accept-ranges"), headers.get("etag")], [null, null]);
  }
  assertEquals(namesIn((await get(handler, "/bare/")).text), ["a.txt"]);
  assertEquals(namesIn((await get(handler, "/odd/")).text), ["index.html/"]);
  assertEquals(namesIn((await get(handler, "/leak/")).text), []);

  const unlisted = handlerFor({ root: site.root, listing: false });
  assertEquals((await get(unlisted, "/bare/")).status, 404);
  assertEquals((await get(unlisted, "/")).status, 200);
});

Deno.test("handler() redirects to the canonical URL of a file or folder, without a host", async () => {
  await using site = await Site.lay({
    "sub/index.html": "sub",
    "a.txt": "a",
    [isWindows ? "odd é#%/a.txt" : "odd é?#%/a.txt"]: "odd", // Windows forbids question marks
    "evil.com/a.txt": "a",
  });
  const handler = handlerFor({ root: site.root });
  const cases: [string, string][] = [
    ["/sub", "/sub/"],
    ["/sub?q=1&r=%20/", "/sub/?q=1&r=%20/"],
    ["/a.txt/", "/a.txt"],
    ["/a.txt/?q", "/a.txt?q"],
    isWindows ? ["/odd%20%C3%A9%23%25", "/odd%20%C3%A9%23%25/"] : ["/odd%20%C3%A9%3F%23%25", "/odd%20%C3%A9%3F%23%25/"],
  ];
  for (const [path, location] of cases) {
    const { status, headers, text } = await get(handler, path);
    assertEquals([status, headers.get("location"), text], [301, location, ""], path);
  }
  await using server = start({ root: site.root, allowHosts: ["evil.com"] });
  for (
    const target of ["//evil.com", "///evil.com", "/./evil.com", "http://evil.com/evil.com"]
  ) {
    const { status, headers } = await rawGet(server.port, target, "Host: evil.com\r\n");
    assertEquals([status, headers.get("location")], [301, "/evil.com/"], target);
  }
  assertEquals((await rawGet(server.port, "//evil.com/a.txt/..", "Host: evil.com\r\n")).status, 200);
  assertEquals((await rawGet(server.port, "/a.txt/.?q")).headers.get("location"), "/a.txt?q");
  if (isOldDeno) return; // which refuses the next target
  const { headers } = await rawGet(server.port, "/sub?é\u{80}");
  assertEquals(headers.get("location"), "/sub/?%C3%A9%C2%80");
});

Deno.test("handler() never redirects to the same URL, even if a file is created meanwhile", async () => {
  await using site = await Site.lay({ "a.txt": "a" });
  const fs = process.getBuiltinModule("node:fs");
  const { existsSync } = fs;
  let isFirst = true;
  try {
    fs.existsSync = (path) => {
      if (!isFirst || basename(`${path}`) !== "a.txt") return existsSync(path);
      isFirst = false; // a program deletes the file before it writes a new one
      return false;
    };
    assertEquals((await get(handlerFor({ root: site.root }), "/a.txt")).status, 404);
  } finally {
    fs.existsSync = existsSync;
  }
});

Deno.test("handler() serves a page at its clean URL and at its full URL", async () => {
  await using site = await Site.lay({ "about.html": "about", "both.html": "page", "both/index.html": "folder" });
  const handler = handlerFor({ root: site.root });
  for (const path of ["/about", "/about.html"]) {
    const { status, text, headers } = await get(handler, path);
    assertEquals([status, text, headers.get("content-type")], [200, "about", "text/html; charset=UTF-8"], path);
  }
  // The page wins over the folder of the same name.
  assertEquals((await get(handler, "/both/")).text, "folder");
  assertEquals((await get(handler, "/both")).text, "page");
  assertEquals((await get(handler, "/about/")).status, 404);
});

Deno.test("handler() responds to HEAD as to GET, without the body", async () => {
  await using site = await Site.lay({
    "index.html": "index",
    "a.bin": new Uint8Array(5000).fill(0xff),
    "big.txt": "big ".repeat(500_000),
    "empty": "",
    "sub/a": "a",
    "404.html": "nothing here",
  });
  const handler = handlerFor({ root: site.root });
  await using server = start(handler);
  const { headers } = await rawGet(server.port, "/a.bin");
  const zipped = await rawGet(server.port, "/big.txt", "Host: localhost\r\nAccept-Encoding: gzip\r\n", "HEAD");
  assertEquals([zipped.headers.get("content-encoding"), zipped.headers.get("content-length")], ["gzip", null]);
  const conditions = [
    "",
    `If-None-Match: ${headers.get("etag")}\r\n`,
    "If-Match: x\r\n",
    `If-Modified-Since: ${headers.get("last-modified")}\r\n`,
  ];
  for (const path of ["/", "/a.bin", "/empty", "/sub/", "/sub", "/a.bin/", "/nothing", "/%zz"]) {
    for (const condition of conditions) {
      const requestHeaders = `Host: localhost\r\n${condition}`;
      const [get, head] = [
        await rawGet(server.port, path, requestHeaders),
        await rawGet(server.port, path, requestHeaders, "HEAD"),
      ];
      const name = `${path} ${condition}`;
      // HTTP/2 would send a body that the handler returned for HEAD.
      assertEquals((await fetchFrom(handler, path, { method: "HEAD" })).text, "", path);
      assertEquals(head.status, get.status, name);
      assertEquals(withoutDate(head.headers), withoutDate(get.headers), name);
      assertEquals(head.text, "", name);
    }
  }
  for (const range of ["bytes=0-9", "bytes=9999-"]) { // Range applies only to GET (RFC 9110, 14.2)
    assertEquals((await rawGet(server.port, "/a.bin", `Host: localhost\r\nRange: ${range}\r\n`, "HEAD")).status, 200);
  }
});

/** Returns the headers without Date, and without those that Deno 2.5 sends with one of the two methods only. */
function withoutDate(headers: Headers): [string, string][] {
  const ignored = isOldDeno ? ["date", "vary", "content-length"] : ["date"];
  return [...headers].filter(([name]) => !ignored.includes(name));
}

Deno.test("handler() never waits for the request body", async () => {
  await using site = await Site.lay({ "a.txt": "a" });
  const server = start({ root: site.root });
  for (const [method, status] of [["POST", 405], ["PUT", 405], ["GET", 200], ["OPTIONS", 204]] as const) {
    using client = await RawClient.connect(server.port);
    await client.send(`${method} /a.txt HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000000\r\n\r\nthe beginning`);
    assertEquals((await client.receive(method))?.status, status, method);
  }
  await server.server.shutdown();
});

Deno.test("handler() responds to missing paths with the nearest 404.html or a plain-text 404", async () => {
  await using site = await Site.lay({
    "404.html": "root's",
    "sub/deep/a.txt": "a",
    "sub/404.html": "sub's",
    "other/a.txt": "a",
  });
  const handler = handlerFor({ root: site.root });
  for (
    const [path, text] of [
      ["/nothing", "root's"],
      ["/nothing/at/all/", "root's"],
      ["/sub/nothing", "sub's"],
      ["/sub/nothing/", "sub's"],
      ["/sub/deep/nothing", "sub's"],
      ["/sub/deep/a.txt/x", "sub's"],
      ["/other/nothing", "root's"],
    ] as const
  ) {
    const etag = (await get(handler, "/404.html")).headers.get("etag")!;
    const response = await get(handler, path, { range: "bytes=0-1", "if-none-match": `*, ${etag}` });
    assertEquals([response.status, response.text], [404, text], path);
    assertEquals(Object.fromEntries(response.headers), {
      "content-type": "text/html; charset=UTF-8",
      "content-length": `${text.length}`,
      "cache-control": "no-cache",
      "x-content-type-options": "nosniff",
      "vary": "Accept-Encoding",
    });
  }
  assertEquals((await get(handler, "/404.html")).status, 200);

  site.write({ "long/404.html": "<p>none".repeat(500) });
  const encoded = await get(handler, "/long/nothing", { "accept-encoding": "gzip" });
  assertEquals([encoded.status, encoded.headers.get("content-encoding")], [404, "gzip"]);
  assert(Number(encoded.headers.get("content-length")) < 500);

  site.write({ [`${"d/".repeat(31)}404.html`]: "deep", [`${"d/".repeat(40)}404.html`]: "deepest" });
  assertEquals((await get(handler, `/${"d/".repeat(39)}nothing`)).text, "deep");
  assertEquals((await get(handler, `/${"d/".repeat(40)}nothing`)).text, "deepest");

  await Deno.remove(site.file("404.html"));
  const { status, headers, text } = await get(handler, "/nothing");
  assertEquals([status, headers.get("content-type"), text], [404, "text/plain; charset=UTF-8", "404 Not Found\n"]);
});

Deno.test("handler() serves the root's index.html for the paths of a single-page app", async () => {
  await using site = await Site.lay({
    "index.html": "app",
    "a.txt": "a",
    "sub/x": "x",
    "about.html": "about",
    "404.html": "none",
  });
  const handler = handlerFor({ root: site.root, spa: true });
  for (
    const [path, status, text] of [
      ["/user/42", 200, "app"],
      ["/user/42/", 200, "app"],
      ["/nothing", 200, "app"],
      ["/v1.2/users", 200, "app"],
      ["/about", 200, "about"],
      ["/a.txt", 200, "a"],
      ["/nothing.js", 404, "none"],
      ["/assets/nothing.css", 404, "none"],
      ["/.hidden", 404, "none"],
      ["/%zz", 400, "400 Bad Request\n"],
    ] as const
  ) {
    const response = await get(handler, path);
    assertEquals([response.status, response.text], [status, text], path);
  }
  const { headers } = await get(handler, "/user/42");
  assertEquals((await get(handler, "/user/42", { "if-none-match": headers.get("etag")! })).status, 304);
  assertEquals((await get(handlerFor({ root: site.root }), "/user/42")).status, 404);
});

Deno.test("handler() responds with a 500 to an unexpected error and reports the details on stderr only", async () => {
  await using site = await Site.lay({ "a.txt": "a" });
  const now = () => {
    throw new Error(`unforeseen in ${site.root}`);
  };
  const handler = createHandler({ root: site.root, now });
  const errors = await stderrOf(async () => {
    const { status, text } = await get(handler, "/a.txt");
    assertEquals([status, text], [500, "500 Internal Server Error\n"]);
  });
  assertEquals(errors, [`http-server: GET /a.txt: unforeseen in ${site.root}`]);
});

Deno.test("handler() serves a page before the folder of the same name, and a file before both", async () => {
  await using site = await Site.lay({
    "blog.html": "page",
    "blog/post.html": "post",
    "notes": "file",
    "notes.html": "page",
    "v1.0.html": "version",
    "odd.html/a.txt": "a",
    "odd/index.html": "folder",
  });
  const cases: [string, number, string][] = [
    ["/blog", 200, "page"],
    ["/blog?q", 200, "page"],
    ["/blog.html", 200, "page"],
    ["/blog/post", 200, "post"],
    ["/blog/post/", 404, "404 Not Found\n"],
    ["/notes", 200, "file"],
    ["/notes.html", 200, "page"],
    ["/v1.0", 200, "version"],
    ["/odd", 301, ""], // odd.html is a folder
  ];
  for (const options of [{}, { spa: true }, { listing: false }, { base: "/docs/" }]) {
    const handler = handlerFor({ root: site.root, ...options });
    const base = options.base?.slice(0, -1) ?? "";
    for (const [path, status, text] of cases) {
      const response = await get(handler, base + path);
      assertEquals([response.status, response.text], [status, text], `${JSON.stringify(options)} ${path}`);
    }
  }
  assertEquals(namesIn((await get(handlerFor({ root: site.root }), "/blog/")).text), ["post.html"]);
  assertEquals((await get(handlerFor({ root: site.root, listing: false }), "/blog/")).status, 404);
});

Deno.test("handler() serves the page of a single-page app for folders without index.html, never a listing", async (t) => {
  const tree = {
    "users/a.txt": "a",
    "admin/index.html": "admin",
    "v1.2/a.txt": "a",
    "assets/logo.svg": "<svg/>",
    "odd/index.html/a.txt": "a",
    "404.html": "none",
  };
  await using svelte = await Site.lay({ ...tree, "index.html": "start", "200.html": "app" });
  await using react = await Site.lay({ ...tree, "index.html": "app" });
  await using surge = await Site.lay({ ...tree, "200.html": "app" });
  await using none = await Site.lay(tree);
  const navigation = { "sec-fetch-mode": "navigate", accept: "text/html,*/*;q=0.8" };
  const script = { "sec-fetch-mode": "no-cors", accept: "*/*" };
  const cases: [string, Record<string, string>, number, string][] = [
    ["/users", navigation, 200, "app"],
    ["/users", script, 200, "app"],
    ["/users/", navigation, 200, "app"],
    ["/users/", { accept: "application/json" }, 200, "app"],
    ["/users/?sort=size", navigation, 200, "app"],
    ["/odd", navigation, 200, "app"],
    ["/odd/", navigation, 200, "app"],
    ["/v1.2", navigation, 200, "app"],
    ["/v1.2/", navigation, 200, "app"],
    ["/v1.2", script, 404, "none"],
    ["/v1.2/", script, 404, "none"],
    ["/users/jane.doe", navigation, 200, "app"],
    ["/users/jane.doe", { accept: "text/html" }, 200, "app"],
    ["/users/jane.doe", script, 404, "none"],
    ["/assets/app.js", script, 404, "none"],
    ["/assets/app.js", {}, 404, "none"],
    ["/assets/logo.svg", script, 200, "<svg/>"],
    ["/admin", navigation, 301, ""],
    ["/admin/", navigation, 200, "admin"],
    ["/users/a.txt", navigation, 200, "a"],
    ["/users/a.txt/", navigation, 301, ""],
  ];
  const sites: [string, Site, string][] = [["both", svelte, "start"], ["index", react, "app"], ["200", surge, "app"]];
  for (const [name, site, start] of sites) {
    const handler = handlerFor({ root: site.root, spa: true });
    const rows: typeof cases = [...cases, ["/", navigation, 200, start]];
    await each(
      t,
      rows,
      ([path, headers]) => `${name} ${path} ${headers.accept}`,
      async ([path, headers, status, text]) => {
        for (const method of ["GET", "HEAD"]) {
          const response = await fetchFrom(handler, path, { method, headers });
          assertEquals([response.status, response.text], [status, method === "GET" ? text : ""]);
        }
      },
    );
  }
  const handler = handlerFor({ root: none.root, spa: true });
  for (const path of ["/", "/users", "/users/", "/nothing"]) {
    const { status, text } = await get(handler, path, navigation);
    assertEquals([status, text], [404, "none"], path);
  }
});

Deno.test("handler() serves a 404.html of any size", async (t) => {
  const page = "<p>none of the pages that you mean\n".repeat(60_000); // more than 1 MiB
  await using site = await Site.lay({ "404.html": page, "sub/404.html": "small", "sub/a.txt": "a" });
  const handler = handlerFor({ root: site.root });
  await using server = start(handler);
  const url = `http://127.0.0.1:${server.port}/nothing`;
  const rows: Record<string, string>[] = [
    {},
    { "accept-encoding": "gzip" },
    { range: "bytes=0-9" },
    { "if-none-match": "*" },
    { "if-match": "x" },
  ];
  await each(t, rows, (headers) => JSON.stringify(headers), async (headers) => {
    for (const method of ["GET", "HEAD"]) {
      const response = await fetch(url, { method, headers: { "accept-encoding": "identity", ...headers } });
      const text = await response.text();
      assertEquals([response.status, text.length], [404, method === "GET" ? page.length : 0]);
      assert(method === "HEAD" || text === page, "another page");
      const names = ["etag", "last-modified", "accept-ranges", "content-range"];
      assertEquals(names.filter((name) => response.headers.has(name)), []);
      assertEquals(response.headers.get("cache-control"), "no-cache");
    }
  });
  const zipped = await getDecoded(handler, "/nothing", "gzip");
  assertEquals([zipped.status, zipped.headers.get("content-encoding")], [404, "gzip"]);
  assert(zipped.text === page, "another page");
  assertEquals((await get(handler, "/sub/nothing")).text, "small");
  if (CAN_SEE_OPEN_FILES) assertEquals(openFiles(site.root), 0);
});

// Target -------------------------------------------------------------------------------------------------------------

Deno.test("resolvePath() decodes once, resolves dots and rejects invalid paths", () => {
  const cases: [string, string | undefined][] = [
    ["", "/"],
    ["/", "/"],
    ["/a", "/a"],
    ["/a/", "/a/"],
    ["/%41", "/A"],
    ["/%2541", "/%41"],
    ["/a%20b%23%3F%25", "/a b#?%"],
    ["/%C3%A9", "/é"],
    ["/é", "/é"],
    ["//a", "/a"],
    ["//evil.com/..", "/"],
    ["/a//b///c", "/a/b/c"],
    ["/./a/.", "/a/"],
    ["/a/b/..", "/a/"],
    ["/a/%2e", "/a/"],
    ["/a/..", "/"],
    ["/.", "/"],
    ["/a/...", "/a/..."],
    ["/a/b.", "/a/b."],
    ["/..", "/"],
    ["/../../etc/passwd", "/etc/passwd"],
    ["/%2e%2e/%2E./etc", "/etc"],
    ["/..%2f..%2fetc", "/etc"],
    ["/a/%2e%2e%2f%2e%2e%2fb", "/b"],
    ["/%252e%252e/b", "/%2e%2e/b"],
    ["/...", "/..."],
    ["/%", undefined],
    ["/%z", undefined],
    ["/%zz", undefined],
    ["/%ff", undefined],
    ["/%c0%ae", undefined],
    ["/%00", undefined],
    ["/a%00.html", undefined],
    ["/%5C", undefined],
    ["/..%5c..%5cetc", undefined],
    ["/a\\b", undefined],
  ];
  for (const [raw, path] of cases) assertEquals(resolvePath(raw), path, raw);
});

Deno.test("isHidden() detects dotfiles anywhere in a path, except /.well-known", () => {
  for (
    const path of [
      "/.env",
      "/a/.git/config",
      "/.git/",
      "/...",
      "/.well-known/.env",
      "/a/.well-known/x",
      "/.well-knownx",
      "/\u200c.env",
      "/a/\u2060\ufeff.git/config",
    ]
  ) {
    assert(isHidden(path as UrlPath), path);
  }
  for (const path of ["/", "/a.b", "/a./b", "/.well-known", "/.well-known/", "/.well-known/acme/x"]) {
    assert(!isHidden(path as UrlPath), path);
  }
});

Deno.test("handler() responds with a 400 to malformed targets and hosts, never with another file", async (t) => {
  await using site = await Site.lay({ "x": "x", "path/x": "path", "index.html": "root" });
  const allowHosts = ["h", "a_b.example", "xn--e1afmkfd.example", "x"];
  const handler = handlerFor({ root: site.root, allowHosts });
  await using server = start(handler);
  for (
    const target of ["/%", "/%zz", "/%ff", "/%00", "/x%00.html", "/%5C", "/..%5C..%5Cx", "/a\\x", "/%c0%ae%c0%ae/"]
  ) {
    await t.step(target, async () => assertEquals((await rawGet(server.port, target)).status, 400));
  }
  // Cache the page that a malformed Host could otherwise address.
  await get(handler, "/path/x");
  for (const host of ["bad host", "a, b", "h/path", "u@h", "h?q", "h#f", "a\\b", "h:x", "[::1", "h\u{e9}", "<h>"]) {
    await t.step(`Host: ${host}`, async () => {
      const { status, text } = await rawGet(server.port, "/x", `Host: ${host}\r\n`);
      assertEquals([status, text], [400, "400 Bad Request\n"]);
    });
  }
  for (const host of ["h", "h:80", "h:", "[::1]:80", "127.0.0.1:8080", "a_b.example", "xn--e1afmkfd.example"]) {
    await t.step(`Host: ${host}`, async () => {
      assertEquals((await rawGet(server.port, "/x", `Host: ${host}\r\n`)).text, "x");
    });
  }
  await t.step("no Host header, as in HTTP/1.0", async () => {
    assertEquals((await rawGet(server.port, "/x", "")).text, "x");
  });
  await t.step("absolute-form", async () => {
    assertEquals((await rawGet(server.port, "http://x/path/x")).text, "path");
    assertEquals((await rawGet(server.port, "http://x")).text, "root");
    assertEquals((await rawGet(server.port, "http://u@x/x")).status, 400);
  });
});

Deno.test("handler() stays inside the root for every spelling of a path", async (t) => {
  await using outside = await Site.lay({
    "www/a.txt": "inside",
    "secret.txt": "SECRET",
    "www-private/secret.txt": "SECRET",
  });
  await using server = start({ root: join(outside.root, "www") });
  const spellings = [
    "/../secret.txt",
    "/%2e%2e/secret.txt",
    "/.%2E/secret.txt",
    "/..%2fsecret.txt",
    "/%2e%2e%2fsecret.txt",
    "/a.txt/../../secret.txt",
    "/x/..//../secret.txt",
    "//../secret.txt",
    "/../www-private/secret.txt",
    "/..%2fwww-private%2fsecret.txt",
    "http://localhost/../secret.txt",
    "/....//secret.txt",
    "/..;/secret.txt",
    "/%252e%252e/secret.txt",
    "/file:///etc/passwd",
    splitDrive(outside.file("secret.txt"))[1],
    `/${splitDrive(outside.file("secret.txt")).join("")}`, // as in /C:/secret.txt
  ];
  for (const target of spellings) {
    await t.step(target, async () => {
      const { status, text } = await rawGet(server.port, target);
      assertEquals([status, text], [404, "404 Not Found\n"]);
    });
  }
  for (
    const target of [
      "/../a.txt",
      "/x/../a.txt",
      "/%2e%2e/a.txt",
      "/x%2f..%2fa.txt",
      "//a.txt",
      "/./a.txt",
      "/x/..//a.txt",
    ]
  ) {
    await t.step(target, async () => assertEquals((await rawGet(server.port, target)).text, "inside"));
  }
});

Deno.test("handler() serves the root under a base and nothing outside it", async (t) => {
  await using site = await Site.lay({
    "index.html": "root",
    "sub/a.txt": "a",
    "sub/404.html": "not in sub",
    "docs/b.txt": "b",
  });
  const cases: [string, number, string | null][] = [
    ["/d%20x/", 200, "root"],
    ["/d%20x/sub/a.txt", 200, "a"],
    ["/d%20x/docs/b.txt", 200, "b"],
    ["/d%20x?q", 301, "/d%20x/?q"],
    ["/d%20x/sub?q", 301, "/d%20x/sub/?q"],
    ["/d%20x/sub/a.txt/", 301, "/d%20x/sub/a.txt"],
    ["/d%20x/sub/no", 404, "not in sub"],
    ["/d%20x/../sub/a.txt", 404, null],
    ["/", 404, null],
    ["/index.html", 404, null],
    ["/sub/a.txt", 404, null],
    ["/d%20xy/sub/a.txt", 404, null],
    ["//d%20x/sub/a.txt", 200, "a"],
  ];
  for (const base of ["/d x/", "d x", "/d x"]) {
    const handler = handlerFor({ root: site.root, base });
    await each(t, cases, ([path]) => `${base} ${path}`, async ([path, status, expected]) => {
      for (let count = 0; count < 2; count++) {
        const response = await get(handler, path);
        const actual = status === 301 ? response.headers.get("location") : response.text;
        assertEquals([response.status, actual], [status, expected ?? "404 Not Found\n"]);
      }
    });
    assertEquals(namesIn((await get(handler, "/d%20x/docs/")).text), ["b.txt"]);
  }
  await using server = start({ root: site.root, base: "/d/" });
  for (const target of ["/d/%2e%2e/a.txt", "/d/%2e%2e%2fsub/no"]) {
    assertEquals((await rawGet(server.port, target)).status, 404, target);
  }
  assertEquals((await rawGet(server.port, "/%64/sub/a.txt")).text, "a");
  await using live = startLive(site, { base: "/docs", spa: true });
  const { text } = await get(live.handler, "/docs/any", NAVIGATION);
  assertMatch(text, /^<script async src="\/docs\/\.live-reload\/script\.js\?[\w-]+"><\/script>root$/);
  assertEquals((await get(live.handler, "/docs/.live-reload/script.js")).status, 200);
  assertEquals((await get(live.handler, "/.live-reload/script.js")).status, 404);
});

Deno.test("handler() serves the single-page app for navigations and a 404 for missing files", async (t) => {
  await using site = await Site.lay({ "index.html": "app", "real.txt": "real" });
  const handler = handlerFor({ root: site.root, spa: true });
  const html = "text/html,application/xhtml+xml,*/*;q=0.8";
  const cases: [string, Record<string, string>, number][] = [
    ["/users/jane", {}, 200],
    ["/users/jane.doe", {}, 404],
    ["/users/jane.doe", { "sec-fetch-mode": "navigate" }, 200],
    ["/users/jane.doe", { accept: html }, 200],
    ["/users/jane.doe", { "sec-fetch-mode": "no-cors", accept: html }, 404],
    ["/assets/app.js", { "sec-fetch-mode": "cors", accept: "*/*" }, 404],
    ["/assets/app.js", { accept: "*/*" }, 404],
    ["/.env", { "sec-fetch-mode": "navigate", accept: html }, 404],
  ];
  await each(t, cases, ([path, headers]) => `${path} ${JSON.stringify(headers)}`, async ([path, headers, status]) => {
    const response = await get(handler, path, headers);
    assertEquals([response.status, response.text === "app"], [status, status === 200]);
  });
});

Deno.test("handler() serves an HTML 404 to clients that prefer HTML and a plain-text 404 to others", async (t) => {
  await using site = await Site.lay({ "a.txt": "a" });
  const handler = handlerFor({ root: site.root });
  const cases: [string | undefined, boolean][] = [
    [undefined, false],
    ["*/*", false],
    ["application/json", false],
    ["text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8", true],
  ];
  await each(t, cases, ([accept]) => accept, async ([accept, isPage]) => {
    for (let count = 0; count < 2; count++) {
      const { status, headers, text } = await get(handler, "/nothing", accept === undefined ? {} : { accept });
      assertEquals([status, headers.get("vary"), headers.get("cache-control")], [404, "Accept", "no-cache"]);
      assertEquals(headers.get("content-type"), `text/${isPage ? "html" : "plain"}; charset=UTF-8`);
      assertEquals(headers.get("content-length"), `${text.length}`);
      assert(isPage ? text.includes("<h1>404 Not Found</h1>") : text === "404 Not Found\n", text);
    }
  });
});

Deno.test("handler() hides dotfiles and does not reveal whether they exist", async () => {
  await using site = await Site.lay({
    ".env": "SECRET",
    ".git/config": "SECRET",
    ".git/404.html": "SECRET",
    "sub/.hidden/a.txt": "SECRET",
    ".env.html": "SECRET",
    ".well-known/acme/token": "token",
    ".well-known/.env": "SECRET",
    "404.html": "not found",
  });
  await using bare = await Site.lay({ ".well-known.html": "SECRET" });
  assertEquals((await get(handlerFor({ root: bare.root }), "/.well-known")).status, 404);
  for (const options of [{ spa: true }, { spa: false }]) {
    const handler = handlerFor({ root: site.root, ...options });
    for (
      const path of [
        "/.env",
        "/.git",
        "/.git/",
        "/.git/config",
        "/.git/nothing",
        "/sub/.hidden/a.txt",
        "/.well-known/.env",
        "/.nothing",
      ]
    ) {
      const { status, text } = await get(handler, path);
      assertEquals([status, text], [404, "not found"], path);
    }
    assertEquals((await get(handler, "/.well-known/acme/token")).text, "token");
    if (options.spa) continue; // no listings
    assertEquals(namesIn((await get(handler, "/.well-known/acme/")).text), ["token"]);
    assertEquals(namesIn((await get(handler, "/.well-known/")).text), ["acme/"]);
    assertEquals(namesIn((await get(handler, "/")).text), [".well-known/", "sub/", "404.html"]);
  }
  const open = handlerFor({ root: site.root, dotfiles: true });
  assertEquals((await get(open, "/.env")).text, "SECRET");
  assertEquals((await get(open, "/.git/config")).text, "SECRET");
  assertEquals(namesIn((await get(open, "/")).text), [
    ".git/",
    ".well-known/",
    "sub/",
    ".env",
    ".env.html",
    "404.html",
  ]);
});

Deno.test("handler() responds with a 404 to paths that cannot exist on disk", async () => {
  await using site = await Site.lay({ "file.txt": "x" });
  await using server = start({ root: site.root });
  const paths = [
    "/file.txt/x",
    "/nothing",
    "/nothing/",
    `/${"n".repeat(300)}`,
    `/${"n".repeat(60_000)}`,
    "/a".repeat(30_000),
  ];
  for (const path of paths) {
    const { status, text } = await rawGet(server.port, path);
    assertEquals([status, text], [404, "404 Not Found\n"], path.slice(0, 40));
  }
});

Deno.test("handler() refuses foreign hosts to clients on the same machine", async (t) => {
  await using site = await Site.lay({ "a.txt": "a", "index.html": "index" });
  const lines: string[] = [];
  const log = (line: string) => lines.push(line);
  const allowHosts = ["host.docker.internal", ".Tunnel.example"];
  await using server = start({ root: site.root, allowHosts, log });
  await rawGet(server.port, "/a.txt"); // caches the file
  const local = [
    "localhost",
    "LOCALHOST:8080",
    "localhost.",
    "app.localhost",
    "a.b.localhost:1",
    "127.0.0.1:80",
    "[::1]:80",
    "10.0.0.7",
    "host.docker.internal:8080",
    "Host.Docker.Internal.",
    "tunnel.example",
    "a.b.tunnel.example",
  ];
  const foreign = [
    "evil.example",
    "localhost.evil.example",
    "evillocalhost",
    "127.0.0.1.evil.example",
    "1.2.3.4.nip.io",
    "host.docker.internal.evil.example",
    "eviltunnel.example",
  ];
  await each(t, local, (host) => host, async (host) => {
    assertEquals((await rawGet(server.port, "/a.txt", `Host: ${host}\r\n`)).status, 200);
  });
  await each(t, foreign, (host) => host, async (host) => {
    for (const path of ["/a.txt", "/", "/nothing"]) {
      const { status, text } = await rawGet(server.port, path, `Host: ${host}\r\n`);
      assertEquals(status, 403, path);
      assertMatch(text, new RegExp(`^403 Forbidden\n.* localhost, .* --allow-host ${host}\n$`));
      assertStringIncludes(lines.at(-1)!, `"GET //${host}${path} HTTP/1.1" 403 `);
    }
    assertEquals((await rawGet(server.port, `http://${host}/a.txt`)).status, 403);
    assertEquals((await rawGet(server.port, "http://localhost/a.txt", `Host: ${host}\r\n`)).status, 403);
  });
  await t.step("an empty Host header", async () => {
    assertEquals((await rawGet(server.port, "/a.txt", "Host: \r\n")).status, 400);
  });
  await t.step("no Host header, as in HTTP/1.0", async () => {
    assertEquals((await rawGet(server.port, "/a.txt", "")).status, 200);
  });
  await t.step("clients on other machines", async () => {
    const handler = handlerFor({ root: site.root });
    const infoOf = (hostname: string) =>
      ({ remoteAddr: { transport: "tcp", hostname, port: 1 }, completed: Promise.resolve() }) as Deno.ServeHandlerInfo;
    for (
      const [address, status] of [["192.168.0.2", 200], ["2001:db8::1", 200], ["::ffff:192.168.0.2", 200]] as const
    ) {
      const request = new Request("http://files.example/a.txt");
      assertEquals((await handler(request, infoOf(address))).status, status, address);
    }
    for (const address of ["127.0.0.1", "127.1.2.3", "::1", "::ffff:127.0.0.1"]) {
      assertEquals((await handler(new Request("http://files.example/a.txt"), infoOf(address))).status, 403, address);
    }
  });
});

Deno.test("handler() processes client input in linear time", async (t) => {
  await using site = await Site.lay({ "a.txt": "a".repeat(2000), "404.html": "none" });
  const handler = handlerFor({ root: site.root, auth: "me:secret" });
  const { headers } = await get(handler, "/a.txt", basic("me:secret"));
  // Long enough that quadratic processing would take minutes.
  const gap = `a${" ".repeat(200_000)}b`;
  const values = [
    gap,
    `"${gap}"`,
    `W/${gap},`,
    ",".repeat(200_000),
    "1".repeat(200_000),
    `bytes=${"1".repeat(200_000)}`,
  ];
  const names = [
    "accept-encoding",
    "if-none-match",
    "if-match",
    "if-modified-since",
    "if-unmodified-since",
    "if-range",
  ];
  names.push("range", "host", "sec-fetch-dest", "authorization");
  await each(t, names, (name) => name, async (name) => {
    for (const value of [...values, `Basic ${"e\u0301".repeat(200_000)}`]) {
      const requestHeaders = new Headers(basic("me:secret"));
      requestHeaders.set("if-range", headers.get("last-modified")!);
      try {
        requestHeaders.set(name, value);
      } catch {
        continue; // `Headers` accepts only Latin-1 values
      }
      assert((await fetchFrom(handler, "/a.txt", { headers: requestHeaders })).status < 500);
    }
  });
  await each(t, ["/", "/.", "/..", "%2f", "%2e", "a/", "a/../", "~"], (part) => part, (part) => {
    const path = resolvePath(part.repeat(200_000));
    assert(path === undefined || !isHidden(path) || path.includes("/."));
  });
});

Deno.test("handler() accepts a base in every spelling, and links below it as browsers would", async (t) => {
  const name = "a@b+c&d,e;f=g$h"; // with a colon it would be no name on Windows
  await using site = await Site.lay({
    "index.html": "root",
    [`${name}/x+y@z.txt`]: "file",
    [`${name}/c++/a.txt`]: "a",
  });
  const bases = ["/@scope/pkg/", "/c++/", "/a&b/", "/x:y,z;u=v$w/", "/d x/", "/é/", "/a#b?c%d/"];
  await each(t, bases, (base) => base, async (base) => {
    const canonical = encodeURI(base).replace("#", "%23").replace("?", "%3F");
    const strict = base.split("/").map(encodeURIComponent).join("/");
    for (const option of [base, strict, base.slice(1, -1)]) {
      const handler = handlerFor({ root: site.root, base: option });
      await using server = start(handler);
      for (const spelling of new Set([canonical, strict])) {
        const request = async (path: string) => {
          const { status, headers, text } = await rawGet(server.port, `${spelling}${path}`);
          return [status, headers.get("location") ?? text];
        };
        assertEquals(await request(""), [200, "root"], spelling);
        assertEquals(await request(`${encodeURIComponent(name)}/x%2By%40z.txt`), [200, "file"]);
        assertEquals(await request(`${name}/x+y@z.txt`), [200, "file"]);
        assertEquals(await request(`${encodeURIComponent(name)}?q=%2B`), [301, `${canonical}${name}/?q=%2B`]);
        assertEquals(await request(`${name}/x+y@z.txt/`), [301, `${canonical}${name}/x+y@z.txt`]);
        const { status, headers } = await rawGet(server.port, spelling.slice(0, -1));
        assertEquals([status, headers.get("location")], [301, canonical]);
      }
      const folder = `http://localhost${canonical}${name}/`;
      const listing = (await get(handler, `${canonical}${name}/`)).text;
      assertEquals(linksIn(listing), ["c++/", "x+y@z.txt"]);
      for (const [link, expected] of [["c++/", /a\.txt/], ["x+y@z.txt", /^file$/]] as const) {
        assertMatch((await get(handler, new URL(link, folder).pathname)).text, expected);
      }
      assertEquals((await get(handler, `/${name}/`)).status, 404);
    }
  });
});

Deno.test("handler() checks the method before it redirects to the base", async () => {
  await using site = await Site.lay({ "index.html": "root" });
  await using server = start({ root: site.root, base: "/docs/" });
  const cases: [string, string, number, string | null][] = [
    ["GET", "/docs", 301, "/docs/"],
    ["HEAD", "/docs?q", 301, "/docs/?q"],
    ["POST", "/docs", 405, null],
    ["DELETE", "/docs", 405, null],
    ["POST", "/docs/", 405, null],
    ["POST", "/elsewhere", 405, null],
    ["OPTIONS", "/docs", 204, null],
    ["OPTIONS", "/docs/", 204, null],
    ["OPTIONS", "*", 204, null],
    ["GET", "/elsewhere", 404, null],
  ];
  for (const [method, target, status, location] of cases) {
    const response = await rawGet(server.port, target, undefined, method);
    assertEquals([response.status, response.headers.get("location")], [status, location], `${method} ${target}`);
    const allow = status === 405 || status === 204 ? "GET, HEAD, OPTIONS" : null;
    assertEquals(response.headers.get("allow"), allow, `${method} ${target}`);
  }
});

Deno.test({
  name: "handler() refuses foreign hosts over HTTP/2, wherever the host is",
  ignore: isOldDeno, // whose HTTP/2 client trusts no certificate of ours
  async fn(t) {
    const { cert, key } = await makeCertificate();
    await using site = await Site.lay({ "a.txt": "a" });
    const handler = createHandler({ root: site.root, allowHosts: ["files.example"] });
    await using server = Deno.serve({ port: 0, hostname: "127.0.0.1", cert, key, onListen() {} }, handler);
    const session = http2.connect(`https://localhost:${server.addr.port}`, { ca: cert });
    const request = (headers: Record<string, string>) =>
      new Promise<[unknown, string]>((resolve, reject) => {
        const stream = session.request({ ":path": "/a.txt", ...headers });
        let status: unknown;
        let text = "";
        stream.on("response", (headers) => status = headers[":status"]);
        stream.on("data", (chunk) => text += chunk);
        stream.on("end", () => resolve([status, text]));
        stream.on("error", reject);
        stream.end();
      });
    const cases: [Record<string, string>, number][] = [
      [{}, 200],
      [{ ":authority": "localhost:1" }, 200],
      [{ ":authority": "127.0.0.1" }, 200],
      [{ ":authority": "[::1]:443" }, 200],
      [{ ":authority": "files.example" }, 200],
      [{ ":authority": "evil.example" }, 403],
      [{ ":authority": "evil.example:443" }, 403],
      [{ ":authority": "localhost.evil.example" }, 403],
      [{ ":authority": "evil.example", host: "localhost" }, 403],
      [{ ":authority": "localhost", host: "evil.example" }, 403],
    ];
    try {
      await each(t, cases, ([headers]) => JSON.stringify(headers), async ([headers, status]) => {
        const [actual, text] = await within(request(headers), "a response over HTTP/2");
        assertEquals(actual, status);
        if (status === 200) assertEquals(text, "a");
        else assertMatch(text, /^403 Forbidden\n.* --allow-host (localhost\.)?evil\.example\n$/);
      });
    } finally {
      await new Promise<void>((resolve) => session.close(resolve));
    }
  },
});

// Files --------------------------------------------------------------------------------------------------------------

Deno.test({
  name: "handler() never opens a FIFO, a socket or a device",
  ignore: isWindows,
  async fn() {
    await using site = await Site.lay({ "sub/a.txt": "a" });
    const { success } = await new Deno.Command("mkfifo", {
      args: [site.file("fifo"), site.file("sub/index.html")],
    }).output();
    assert(success, "mkfifo failed");
    using _socket = Deno.listen({ transport: "unix", path: site.file("socket") });
    await Deno.symlink("/dev/zero", site.file("device"));
    const handler = handlerFor({ root: site.root, symlinks: true });
    for (const path of ["/fifo", "/socket", "/device", "/fifo/"]) {
      for (const method of ["GET", "HEAD"]) {
        assertEquals((await fetchFrom(handler, path, { method })).status, 404, path);
      }
    }
    assertEquals((await get(handler, "/sub/")).status, 200, "a FIFO does not count as index.html");
    assertEquals((await get(handler, "/")).status, 200, "a listing opens no special files");
  },
});

/** Request headers whose responses could reveal the ETag, date or size of a file. */
const REVEALING_HEADERS: Record<string, string>[] = [
  { "if-none-match": "*" },
  { "if-match": "x" },
  { "if-unmodified-since": "Sun, 06 Nov 1994 08:49:37 GMT" },
  { range: "bytes=999999-" },
];

Deno.test("handler() responds with a 403 for unreadable files and folders", async () => {
  await using site = await Site.lay({
    "file.txt": "x",
    "folder/a.txt": "x",
    "noindex/index.html": "x",
    "enterable/a.txt": "a",
    "open.txt": "open",
  });
  const files = ["file.txt", "noindex/index.html"].map((name) => site.file(name));
  for (const file of [...files, site.file("folder")]) await chmod(file, 0);
  await chmod(site.file("enterable"), 0o111);
  const folders = canBeDenied ? ["/folder/", "/folder/a.txt", "/folder/nothing", "/enterable/"] : [];
  const handler = handlerFor({ root: site.root });
  const check = async () => {
    for (const path of ["/file.txt", "/noindex/", ...folders]) {
      for (const method of ["GET", "HEAD"]) {
        const { status, text } = await fetchFrom(handler, path, { method });
        assertEquals([status, text], [403, method === "GET" ? "403 Forbidden\n" : ""], `${method} ${path}`);
      }
      for (const headers of REVEALING_HEADERS) assertEquals((await get(handler, path, headers)).status, 403, path);
    }
    assertEquals((await get(handler, "/enterable/a.txt")).text, "a");
    assertEquals((await get(handler, "/open.txt")).text, "open");
    assertEquals((await get(handler, "/")).status, 200);
  };
  await (canBeDenied ? withoutRights(check) : withoutAccess(files, check));
});

Deno.test({
  name: "handler() responds with a 404 for a link to a name that is not UTF-8",
  ignore: !isLinux,
  async fn() {
    await using site = await Site.lay({ "a.txt": "a" });
    const commands = `cd "${site.root}" && mkdir "$(printf 'x\\377')" && ln -s "$(printf 'x\\377')" link`;
    assert((await new Deno.Command("sh", { args: ["-c", commands] }).output()).success);
    const handler = handlerFor({ root: site.root });
    for (const path of ["/link", "/link/", "/link/x"]) assertEquals((await get(handler, path)).status, 404, path);
    assertEquals((await get(handler, "/")).status, 200);
  },
});

Deno.test({
  name: "handler() follows links inside the root, and links out of it only with the symlinks option",
  ignore: !HAS_LINKS,
  async fn() {
    await using outside = await Site.lay({
      "secret.txt": "SECRET",
      "folder/secret.txt": "SECRET",
      "www-private/secret.txt": "SECRET",
    });
    await using site = await Site.lay({
      "a.txt": "a",
      "sub/b.txt": "b",
      "inner": { link: "a.txt" },
      "innerfolder": { link: "sub" },
      "leak.txt": { link: join(outside.root, "secret.txt") },
      "leakfolder": { link: join(outside.root, "folder") },
      "relative": { link: "../secret.txt" },
      "sub/deep": { link: join(outside.root, "folder") },
      "indirect": { link: "leak.txt" },
      "back": { link: "." },
      "dangling": { link: "nothing" },
      "loop": { link: "loop" },
      "page.html": { link: join(outside.root, "secret.txt") },
      "404.html": { link: join(outside.root, "secret.txt") },
    });
    const leaks = [
      "/leak.txt",
      "/leakfolder/",
      "/leakfolder/secret.txt",
      "/sub/deep/secret.txt",
      "/innerfolder/deep/secret.txt",
      "/indirect",
    ];
    const handler = handlerFor({ root: site.root });
    for (
      const path of [
        ...leaks,
        "/leakfolder",
        "/relative",
        "/dangling",
        "/loop",
        "/loop/x",
        "/page",
        "/page.html",
        "/nothing",
      ]
    ) {
      const { status, text } = await get(handler, path);
      assertEquals([status, text], [404, "404 Not Found\n"], path);
    }
    assertEquals((await get(handler, "/inner")).text, "a");
    assertEquals((await get(handler, "/innerfolder/b.txt")).text, "b");
    assertEquals((await get(handler, "/back/back/a.txt")).text, "a");

    const following = handlerFor({ root: site.root, symlinks: true });
    for (const path of leaks.filter((path) => !path.endsWith("/"))) {
      assertEquals((await get(following, path)).text, "SECRET", path);
    }
    for (const path of ["/dangling", "/loop", "/loop/x"]) assertEquals((await get(following, path)).status, 404, path);
  },
});

Deno.test({
  name: "handler() serves a root that is itself a link, but not a sibling folder with the same prefix",
  ignore: !HAS_LINKS,
  async fn() {
    await using site = await Site.lay({
      "www/a.txt": "a",
      "www-private/secret.txt": "SECRET",
      "link": { link: "www" },
    });
    link("../www-private/secret.txt", site.file("www/leak"));
    const handler = handlerFor({ root: site.file("link") });
    assertEquals((await get(handler, "/a.txt")).text, "a");
    assertEquals((await get(handler, "/leak")).status, 404);
    const [drive, path] = splitDrive(site.file("www/a.txt"));
    assertEquals((await get(handlerFor({ root: `${drive}/` }), path)).text, "a");

    // A deployment points the link to another version.
    if (isWindows) return; // which can't replace a link to a folder
    site.write({ "next/a.txt": "next" });
    link("next", site.file("link.new"));
    await Deno.rename(site.file("link.new"), site.file("link"));
    assertEquals((await get(handler, "/a.txt")).text, "next");
  },
});

Deno.test("handler() sends a Content-Type for every file", async () => {
  const types: Record<string, string> = {
    "a.html": "text/html; charset=UTF-8",
    "A.HTML": "text/html; charset=UTF-8",
    "a.css": "text/css; charset=UTF-8",
    "a.js": "text/javascript; charset=UTF-8",
    "a.mjs": "text/javascript; charset=UTF-8",
    "a.json": "application/json; charset=UTF-8",
    "a.md": "text/markdown; charset=UTF-8",
    "a.txt": "text/plain; charset=UTF-8",
    "a.wasm": "application/wasm",
    "a.ts": "text/plain; charset=UTF-8",
    "a.TSX": "text/plain; charset=UTF-8",
    "a.mts": "text/plain; charset=UTF-8",
    "a.woff2": "font/woff2",
    "a.avif": "image/avif",
    "a.webp": "image/webp",
    "a.jxl": "image/jxl",
    "a.svg": "image/svg+xml",
    "a.webmanifest": "application/manifest+json; charset=UTF-8",
    "a.pdf": "application/pdf",
    "a.mp4": "video/mp4",
    "LICENSE": "text/plain; charset=UTF-8",
    "a.unknown": "text/plain; charset=UTF-8",
    "a.constructor": "text/plain; charset=UTF-8",
    "a.__proto__": "text/plain; charset=UTF-8",
  };
  await using site = await Site.lay({
    ...Object.fromEntries(Object.keys(types).map((name) => [name, "let it be\ttext\n"])),
    "utf8": "é😀".repeat(500),
    "cut": "a" + "é".repeat(600), // byte 1024 is in the middle of a character
    "empty": "",
    "binary": new Uint8Array([0x7f, 0x45, 0x4c, 0x46, 0]),
    "latin1": new Uint8Array([0xe9, 0x20, 0x61]),
    "bigtext": "text ".repeat(500_000),
    "bigbinary": new Uint8Array(2_000_000),
  });
  const handler = handlerFor({ root: site.root });
  Object.assign(types, { utf8: types.LICENSE, cut: types.LICENSE, empty: types.LICENSE });
  Object.assign(types, { binary: "application/octet-stream", latin1: "application/octet-stream" });
  Object.assign(types, { bigtext: types.LICENSE, bigbinary: "application/octet-stream" });
  for (const [name, type] of Object.entries(types)) {
    for (const headers of [undefined, { range: "bytes=0-0" }]) {
      assertEquals((await get(handler, `/${name}`, headers)).headers.get("content-type"), type, name);
    }
  }
});

Deno.test("handler() derives the type from the URL, not from a link's target or an earlier request", async () => {
  const tree = {
    "store/abc": "export {};",
    "real.txt": "text",
    "lib.mjs": { link: "store/abc" },
    "page.html": { link: "real.txt" },
    "other.mjs": "export {};",
    "other.html": "<p>",
  };
  await using site = await Site.lay(tree);
  const handler = handlerFor({ root: site.root });
  const links = [["/lib.mjs", "javascript"], ["/page.html", "html"]];
  for (const [path, type] of [...HAS_LINKS ? links : [], ["/other.mjs", "javascript"]]) {
    assertEquals((await get(handler, path!)).headers.get("content-type"), `text/${type}; charset=UTF-8`, path);
  }
  assertEquals((await get(handler, "/other.html")).headers.get("content-type"), "text/html; charset=UTF-8");
});

Deno.test({
  name: "handler() keeps responding if a FIFO replaces a file while it is opened",
  ignore: !isLinux || isOldDeno, // opening a FIFO blocks Deno 2.5
  async fn() {
    await using site = await Site.lay({ "a.txt": "a".repeat(100_000), "b.txt": "b" });
    assert((await new Deno.Command("mkfifo", { args: [site.file("fifo")] }).output()).success);
    const handler = createHandler({ root: site.root });
    const { open } = Deno;
    let opening = Promise.withResolvers<void>();
    try {
      Deno.open = (path, options) => { // between stat() and open()
        Deno.open = open;
        Deno.renameSync(site.file("a.txt"), site.file("kept"));
        Deno.renameSync(site.file("fifo"), site.file("a.txt"));
        opening.resolve();
        return open(path, options);
      };
      const first = get(handler, "/a.txt");
      await opening.promise;
      assertEquals((await get(handler, "/b.txt")).text, "b");
      opening = Promise.withResolvers();
      await Deno.writeTextFile(site.file("a.txt"), "", { create: false }); // unblocks a reader that waits for a writer
      assertEquals((await first).status, 404);
    } finally {
      Deno.open = open;
    }
  },
});

Deno.test({
  name: "handler() does not wait for a FIFO that replaces a small file while it is opened",
  ignore: !isLinux || isOldDeno, // opening a FIFO blocks Deno 2.5
  async fn() {
    await using site = await Site.lay({ "a.txt": "a" });
    assert((await new Deno.Command("mkfifo", { args: [site.file("fifo")] }).output()).success);
    const handler = createHandler({ root: site.root });
    const fs = process.getBuiltinModule("node:fs");
    const { openSync } = fs;
    let isReplaced = false;
    try {
      fs.openSync = (...args) => { // between stat() and open()
        if (!isReplaced) Deno.renameSync(site.file("fifo"), site.file("a.txt"));
        isReplaced = true;
        return openSync(...args);
      };
      const response = get(handler, "/a.txt");
      // If `open` is called as well, it waits for a writer.
      const unblock = async () => void await Deno.writeTextFile(site.file("a.txt"), "", { create: false });
      await within(Promise.all([unblock(), response]), "a response");
      assertEquals([(await response).status, isReplaced], [404, true]);
    } finally {
      fs.openSync = openSync;
    }
  },
});

Deno.test("handler() serves any range of a file that is too big to buffer", async () => {
  const size = 500_000;
  const bytes = new Uint8Array(size).map((_, index) => index * 31 ^ index >> 8);
  await using site = await Site.lay({ "big.bin": bytes });
  await using server = start(handlerFor({ root: site.root, limits: SMALL_READS }));
  for (
    const [first, last] of [[0, 9], [100, 70_000], [size - 5, size - 1], [12_345, size - 1], [1, 300_000], [
      0,
      size - 1,
    ]] as const
  ) {
    for (let count = 0; count < 2; count++) {
      const response = await fetch(`http://127.0.0.1:${server.port}/big.bin`, {
        headers: { range: `bytes=${first}-${last}` },
      });
      assertEquals(response.status, 206);
      assertEquals(response.headers.get("content-length"), `${last - first + 1}`);
      assertEquals(response.headers.get("content-range"), `bytes ${first}-${last}/${size}`);
      assert(indexOfDifference(await response.bytes(), bytes.subarray(first, last + 1)) < 0, `${first}-${last}`);
    }
  }
  if (CAN_SEE_OPEN_FILES) assertEquals(openFiles(site.root), 0);
});

Deno.test("handler() serves a growing file with the announced length", async (t) => {
  const size = 3 << 20;
  await using site = await Site.lay({ "big.bin": new Uint8Array(size) });
  const handler = handlerFor({ root: site.root });
  await using server = start(handler);
  // Over HTTP/1 and as over HTTP/2, where extra bytes are an error. A Host header must not affect that.
  const rows = [`http://127.0.0.1:${server.port}`, "https://localhost"].flatMap((origin) =>
    ["", "bytes=5-"].map((range) => ({ origin, range }))
  );
  await each(t, rows, (row) => Object.values(row).join(" "), async ({ origin, range }) => {
    await Deno.truncate(site.file("big.bin"), size);
    const request = new Request(`${origin}/big.bin`, { headers: { host: "localhost", ...range ? { range } : {} } });
    const response = origin.startsWith("https") ? await handler(request) : await fetch(request);
    await Deno.truncate(site.file("big.bin"), size + 5000);
    const length = range ? size - 5 : size;
    assertEquals([(await response.bytes()).length, response.headers.get("content-length")], [length, `${length}`]);
  });
});

Deno.test("handler() serves a short name such as GIT~1 only if its folder lists it", async () => {
  // FAT, CIFS and NTFS open `.git` by the name `GIT~1`, which its folder does not list.
  await using site = await Site.lay({ "GIT~1/config": "SECRET", "sub/ENV~1": "SECRET", "a~1.txt": "a", "b~/c": "c" });
  const { readDirSync } = Deno;
  try {
    Deno.readDirSync = (folder) => readDirSync(folder).filter(({ name }) => !/^(?:GIT|ENV)~1$/.test(name));
    const handler = handlerFor({ root: site.root });
    for (const path of ["/GIT~1", "/GIT~1/", "/GIT~1/config", "/sub/ENV~1"]) {
      assertEquals((await get(handler, path)).status, 404, path);
    }
    for (const [path, text] of [["/a~1.txt", "a"], ["/b~/c", "c"]] as const) {
      assertEquals((await get(handler, path)).text, text);
    }
    assertEquals((await get(handlerFor({ root: site.root, dotfiles: true }), "/GIT~1/config")).text, "SECRET");
  } finally {
    Deno.readDirSync = readDirSync;
  }
});

Deno.test("handler() serves a hidden file by another spelling of its name only through a link", async (t) => {
  await using site = await Site.lay({
    ".git/config": "config",
    ".git/.env": "env",
    "sub/.env": "env",
    ".well-known/token": "token",
    "plain.txt": "plain",
    "link.txt": { link: ".git/config" },
    "folder": { link: ".git" },
    ".well-known/link": { link: "token" },
    // Stand for other spellings: the mock below reports the names of the hidden files as the real ones.
    "GIT1/config": "config",
    ".git/ENV1": "env",
    "sub/ENV1": "env",
    "PLAIN.TXT1": "plain",
  });
  const spellings = { "/GIT1": "/.git", "/ENV1": "/.env", "/PLAIN.TXT1": "/plain.txt" };
  const { realPathSync } = Deno;
  try {
    // As on Windows and HFS+: the real path has the names that the folders list.
    Deno.realPathSync = (path) =>
      Object.entries(spellings).reduce(
        (path, [spelling, name]) => path.replace(spelling.replace("/", SEPARATOR), name.replace("/", SEPARATOR)),
        realPathSync(path),
      );
    const hidden = ["/GIT1", "/GIT1/", "/GIT1/config", "/sub/ENV1", ...HAS_LINKS ? ["/folder/ENV1"] : []];
    await each(t, hidden, (path) => path, async (path) => {
      assertEquals((await get(handlerFor({ root: site.root }), path)).status, 404);
    });
    const links = [["/link.txt", "config"], ["/folder/config", "config"], ["/.well-known/link", "token"]];
    await each(
      t,
      [["/PLAIN.TXT1", "plain"], ...HAS_LINKS ? links : []],
      ([path]) => path,
      async ([path, text]) => {
        assertEquals((await get(handlerFor({ root: site.root }), path!)).text, text);
      },
    );
    // Only names below the root count.
    assertEquals((await get(handlerFor({ root: site.file(".git") }), "/")).status, 200);
    assertEquals((await get(handlerFor({ root: site.root, dotfiles: true }), "/GIT1/config")).text, "config");
  } finally {
    Deno.realPathSync = realPathSync;
  }
});

Deno.test("handler() maps the file system errors of every system to a status", async (t) => {
  await using site = await Site.lay({ "a.txt": "a" });
  const handler = handlerFor({ root: site.root });
  const { realPathSync } = Deno;
  const codes = { ENOENT: 404, ELOOP: 404, ENAMETOOLONG: 404, EACCES: 403, EBUSY: 503, EMFILE: 503 };
  await each(t, Object.entries(codes), ([code]) => code, async ([code, status]) => {
    try {
      Deno.realPathSync = () => { // Linux cannot produce some of these errors with a real file
        throw Object.assign(new Error("the system's own words"), { code });
      };
      const errors = await stderrOf(async () => assertEquals((await get(handler, "/a.txt")).status, status));
      assertEquals(errors.length, status < 500 ? 0 : 1);
    } finally {
      Deno.realPathSync = realPathSync;
    }
  });
});

Deno.test({
  name: "handler() distinguishes inaccessible from missing files on every request",
  ignore: !isLinux,
  async fn() {
    await using site = await Site.lay({ "closed/a.txt": "a", "open/a.txt": "a", "file.txt": "x" });
    await chmod(site.file("closed"), 0);
    // Use a process without root's rights: `access` checks the real user, which `withoutRights` does not change.
    const shell = Deno.uid() === 0
      ? "exec setpriv --bounding-set=-dac_override,-dac_read_search $SERVER"
      : "exec $SERVER";
    await using server = await Served.start(["--port", "0", "-q", site.root], { shell });
    const paths = {
      "/open/no": 404,
      "/no/no/no": 404,
      "/file.txt/x": 404,
      "/closed/a.txt": 403,
      "/closed/no": 403,
      "/open/a.txt": 200,
    };
    for (let count = 0; count < 20; count++) {
      for (const [path, status] of Object.entries(paths)) {
        const response = await fetch(`${server.url}${path.slice(1)}`);
        await response.body?.cancel();
        assertEquals(response.status, status, `${path}, ${count}`);
      }
    }
  },
});

/** Starts a process that repeatedly runs code on a folder until it is disposed of. */
function repeatInProcess(root: string, code: string) {
  const script = `const root = ${JSON.stringify(root)}; for (let i = 0;; i++) { ${code} }`;
  const child = new Deno.Command(Deno.execPath(), { args: ["eval", script], stdin: "null" }).spawn();
  const stop = async () => {
    child.kill("SIGKILL");
    await child.status;
  };
  return { [Symbol.asyncDispose]: stop };
}

Deno.test({
  name: "handler() never mixes two releases while the root link switches between them",
  ignore: isWindows,
  async fn() {
    const count = 100;
    const pad = (name: string, index: number) => `${name} ${index} `.padEnd(index % 10 === 0 ? 100_000 : 300, ".");
    const release = (name: string) =>
      Object.fromEntries(Array.from({ length: count }, (_, index) => [`${name}/sub/${index}.txt`, pad(name, index)]));
    await using site = await Site.lay({ ...release("one"), ...release("two"), "current": { link: "one" } });
    const root = site.file("current");
    const handler = handlerFor({ root });
    const requested = { count: 0 };
    const request = async (index: number) => {
      const { status, text } = await get(handler, `/sub/${index}.txt`);
      assertEquals(status, 200);
      assert(text === pad("one", index) || text === pad("two", index), text.slice(0, 100));
      requested.count++;
    };
    {
      await using _turning = repeatInProcess(
        site.root,
        `Deno.symlinkSync(i % 2 ? "one" : "two", root + "/new"); Deno.renameSync(root + "/new", root + "/current");`,
      );
      const clients = Array.from({ length: 4 }, async (_, client) => {
        for (let i = 0; i < 750; i++) await request((i * 7 + client * 25) % count);
      });
      await Promise.all(clients);
    }
    assertEquals(requested.count, 3000);
    for (const name of ["one", "two"]) { // without switching, twice each: nothing stale is cached
      await Deno.remove(site.file("new")).catch(() => {});
      link(name, site.file("new"));
      await Deno.rename(site.file("new"), root);
      for (let i = 0; i < 2 * count; i++) {
        assertEquals((await get(handler, `/sub/${i % count}.txt`)).text, pad(name, i % count));
      }
    }
  },
});

Deno.test({
  name: "handler() follows no link into the folder that the root led to before",
  ignore: !HAS_LINKS,
  async fn() {
    await using site = await Site.lay({
      "one/a.txt": "old",
      "two/a.txt": { link: "../one/a.txt" },
      "root": { link: "one" },
    });
    let time = later();
    const handler = createHandler({ root: site.file("root"), now: () => time += 10 });
    for (let count = 0; count < 2; count++) assertEquals((await get(handler, "/a.txt")).text, "old");
    Deno.removeSync(site.file("root"));
    link("two", site.file("root"));
    for (let count = 0; count < 2; count++) assertEquals((await get(handler, "/a.txt")).status, 404);
  },
});

Deno.test("handler() serves a big file that is emptied before it is opened", async () => {
  for (const encoding of ["identity", "gzip"]) {
    await using site = await Site.lay({ "a.txt": "a".repeat(2 << 20) });
    const handler = handlerFor({ root: site.root });
    await getDecoded(handler, "/a.txt", encoding);
    const { open } = Deno;
    try {
      Deno.open = (path, options) => {
        site.write({ "a.txt": "" });
        return open(path, options);
      };
      const { status, text } = await getDecoded(handler, "/a.txt", encoding);
      assertEquals([status, text], [200, ""]);
    } finally {
      Deno.open = open;
    }
  }
});

Deno.test("handler() takes version and bytes from the same open file if another one is swapped in", async () => {
  await using site = await Site.lay({ "one/a.txt": "one", "one/b.bin": "1".repeat(2 << 20), "two/a.txt": "two" });
  site.write({ "two/b.bin": "2".repeat(2 << 20) });
  const handler = handlerFor({ root: site.root });
  const rename = (from: string, to: string) => Deno.renameSync(site.file(from), site.file(to));
  const fs = process.getBuiltinModule("node:fs");
  const { openSync } = fs;
  const { open } = Deno;
  for (const [path, range] of [["/one/a.txt", "bytes=0-"], ["/one/b.bin", "bytes=7-9"]] as const) {
    const other = path.replace("one", "two");
    const [one, two] = isWindows ? [path, other] : ["one", "two"]; // no folder with an open file can be renamed there
    await get(handler, "/one/b.bin", { range: "bytes=0-0" }); // caches the entry
    try {
      const swap = () => {
        [Deno.open, fs.openSync] = [open, openSync];
        rename(one, "three");
        rename(two, one);
      };
      const swapBack = () => {
        rename(one, two);
        rename("three", one);
      };
      Deno.open = async (path, options) => {
        swap();
        const file = await open(path, options);
        swapBack();
        return file;
      };
      fs.openSync = (...args) => {
        swap();
        const file = openSync(...args);
        swapBack();
        return file;
      };
      assertMatch((await get(handler, path, { range })).text, /^(one|111)$/);
      assertEquals(Deno.open, open, "swapped");
    } finally {
      [Deno.open, fs.openSync] = [open, openSync];
    }
    assertMatch((await get(handler, path, { range })).text, /^(one|111)$/);
  }
});

Deno.test({
  name: "handler() serves nothing from outside if a folder becomes a link whenever a file is opened",
  ignore: isWindows,
  async fn() {
    const repeat = (text: string) => text.repeat(20_000); // smaller files are opened by node:fs
    await using outside = await Site.lay({ "a.txt": repeat("SECRET") });
    await using site = await Site.lay({ "sub/a.txt": repeat("inside") });
    const turnIntoLink = () => {
      Deno.renameSync(site.file("sub"), site.file("real"));
      link(outside.root, site.file("sub"));
    };
    const turnBack = () => {
      Deno.removeSync(site.file("sub"));
      Deno.renameSync(site.file("real"), site.file("sub"));
    };
    const handler = handlerFor({ root: site.root });
    const { open } = Deno;
    let count = 0;
    try {
      Deno.open = async (path, options) => {
        count++;
        turnIntoLink();
        const file = await open(path, options);
        if (count === 1) turnBack(); // the second look finds the folder
        return file;
      };
      const { status, text } = await get(handler, "/sub/a.txt");
      assertEquals([status, text, count], [404, "404 Not Found\n", 2]);
    } finally {
      Deno.open = open;
    }
    turnBack();
    assertEquals((await get(handler, "/sub/a.txt")).text, repeat("inside"));
  },
});

Deno.test({
  name: "handler() caches nothing from a folder that is temporarily a link to the outside",
  ignore: isWindows,
  async fn() {
    await using outside = await Site.lay({ "a.txt": "SECRET", "b.txt": "SECRET" });
    await using site = await Site.lay({ "www/sub/a.txt": "inside", "www/sub/b.txt": "inside" });
    const handler = handlerFor({ root: site.file("www") });
    {
      await using _swapping = repeatInProcess(
        site.file("www"),
        `Deno.renameSync(root + "/sub", root + "/real"); Deno.symlinkSync(${
          JSON.stringify(outside.root)
        }, root + "/sub");
         Deno.removeSync(root + "/sub"); Deno.renameSync(root + "/real", root + "/sub");`,
      );
      for (let i = 0; i < 3000; i++) {
        const { status } = await get(handler, i % 2 ? "/sub/a.txt" : "/sub/b.txt");
        assert(status === 200 || status === 404, `${status}`);
      }
    }
    await Deno.remove(site.file("www/sub")).catch(() => {});
    await Deno.rename(site.file("www/real"), site.file("www/sub")).catch(() => {});
    for (let i = 0; i < 20; i++) {
      for (const name of ["a", "b"]) assertEquals((await get(handler, `/sub/${name}.txt`)).text, "inside");
    }
  },
});

Deno.test({
  name: "handler() serves headers and bytes of one version while a big file is being replaced",
  ignore: !CAN_REPLACE,
  async fn() {
    const base = 300_000;
    await using site = await Site.lay({ "big.bin": new Uint8Array(base) });
    const handler = handlerFor({ root: site.root, limits: SMALL_READS });
    await using server = start(handler);
    await using _replacing = repeatInProcess(
      site.root,
      `Deno.writeFileSync(root + "/new", new Uint8Array(${base} + i % 256).fill(i % 256));
       Deno.renameSync(root + "/new", root + "/big.bin"); Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 3);`,
    );
    for (let i = 0; i < 150; i++) {
      const range = [undefined, "bytes=5-", "bytes=-100"][i % 3];
      const response = await fetch(`http://127.0.0.1:${server.port}/big.bin`, { headers: range ? { range } : {} });
      const bytes = await response.bytes();
      assertEquals(response.status, range ? 206 : 200);
      assertEquals(`${bytes.length}`, response.headers.get("content-length"));
      const size = Number(/\d+$/.exec(response.headers.get("content-range") ?? `${bytes.length}`)![0]);
      assert(
        bytes.every((byte) => byte === size - base),
        `expected ${size - base}, got ${bytes[0]} to ${bytes.at(-1)}`,
      );
    }
  },
});

Deno.test("handler() protects dotfiles and outside files under the alternative names of any system", async (t) => {
  const SECRET = "secret";
  await using site = await Site.lay({
    "secret.txt": SECRET,
    "www/.env": SECRET,
    "www/.git/config": SECRET,
    "www/\u200c.env": SECRET, // macOS ignores such characters in names: `.env` has this name there, too
    "www/sub/\u2060.git/config": SECRET,
    "www/a.txt": "a",
  });
  const handler = handlerFor({ root: site.file("www") });
  const names = ["/.ENV", "/.env.", "/.env%20", "/.env::$DATA", "/.env:$DATA", "/%2Eenv", "/ENV~1", "/.git./config"];
  const folders = [
    "/GIT~1/config",
    "/.GIT/config",
    "/.git::$INDEX_ALLOCATION/config",
    "/.git%20/config",
    "/.GIT%2fCONFIG",
  ];
  const invisible = ["/%E2%80%8C.env", "/sub/%E2%81%A0.git/config", "/sub/%E2%81%A0.git/"];
  const outside = ["/..%20/secret.txt", "/.../secret.txt", "/..::$INDEX_ALLOCATION/secret.txt", "/C:/Windows/win.ini"];
  const devices = ["/CON", "/NUL", "/NUL.txt", "/COM1", "/aux/a.txt", "/a.txt/NUL", "/%3F%3F/C:/Windows/win.ini"];
  await each(t, [...names, ...folders, ...invisible, ...outside, ...devices], (path) => path, async (path) => {
    const { status, text } = await get(handler, path);
    assertEquals([status, text], [404, "404 Not Found\n"]);
  });
});

Deno.test("handler() sends source code as text, unless it is binary", async () => {
  const text = "text/plain; charset=UTF-8";
  const code = ["ts", "tsx", "mts", "cts", "cjs", "rs", "toml", "sql", "sh", "tex"];
  const video = new Uint8Array(188 * 20).map((_, index) => index % 188 === 0 ? 0x47 : index); // MPEG-2 transport stream
  const late = encoder.encode(`${"a".repeat(1024)}\0\0\0`);
  await using site = await Site.lay({
    ...Object.fromEntries(
      code.flatMap((extension) => [[`a.${extension}`, "code"], [`B.${extension.toUpperCase()}`, ""]]),
    ),
    "video.ts": video,
    "big.ts": new Uint8Array(2 << 20).fill(0x47, 0, 1).fill(0xff, 1),
    "bigcode.ts": "export {};\n".repeat(200_000),
    "late.ts": late,
    "page.js": "let a;",
    "folder.ts/a": "x",
  });
  const handler = handlerFor({ root: site.root });
  const types: Record<string, string> = {
    ...Object.fromEntries(
      code.flatMap((extension) => [[`a.${extension}`, text], [`B.${extension.toUpperCase()}`, text]]),
    ),
    "video.ts": "video/mp2t",
    "big.ts": "video/mp2t",
    "bigcode.ts": text,
    "late.ts": text, // only the first 1,024 bytes count
    "page.js": "text/javascript; charset=UTF-8",
  };
  for (const [name, type] of Object.entries(types)) {
    for (const [header, value] of [["range", "none"], ["range", "bytes=0-0"], ["accept-encoding", "gzip"]] as const) {
      const response = await get(handler, `/${name}`, { [header]: value });
      assertEquals(response.headers.get("content-type"), type, `${name} ${value}`);
    }
  }
});

Deno.test("handler() leaves the charset to HTML that declares another one", async (t) => {
  const page = (head: string) => `<!doctype html>\n<html>\n<head>\n${head}\n<title>t</title>\n`;
  const utf16 = (mark: number[]) => new Uint8Array([...mark, 0x3c, 0, 0x70, 0, 0x3e, 0]);
  const UTF8 = "text/html; charset=UTF-8";
  const OTHER = "text/html";
  const cases: [string, string | Uint8Array, string][] = [
    ["no declaration", page(""), UTF8],
    ["UTF-8", page('<meta charset="utf-8">'), UTF8],
    ["UTF-8 in capitals, without quotes", page("<META CHARSET=UTF-8>"), UTF8],
    ["ISO 8859-1", page('<meta charset="iso-8859-1">'), OTHER],
    ["without quotes", page("<meta charset=iso-8859-1>"), OTHER],
    ["in single quotes, with spaces", page("<meta  charset = 'windows-1252' >"), OTHER],
    ["in capitals", page('<META CHARSET="Shift_JIS">'), OTHER],
    ["http-equiv", page('<meta http-equiv="Content-Type" content="text/html; charset=koi8-r">'), OTHER],
    ["http-equiv with UTF-8", page('<meta http-equiv="Content-Type" content="text/html; charset=utf-8">'), UTF8],
    ["after another meta", page('<meta name="viewport" content="width=1">\n<meta charset="gbk">'), OTHER],
    ["in a comment", page("<!-- <meta charset=iso-8859-1> -->"), UTF8],
    ["in an unclosed comment", page("<!-- <meta charset=iso-8859-1>"), UTF8],
    ["in a comment before another one", page('<!-- <meta charset="utf-8"> --><meta charset="big5">'), OTHER],
    ["in a text", page("<p>charset=iso-8859-1</p>"), UTF8],
    ["after 1,024 bytes", page(`<!--${" ".repeat(1024)}--><meta charset="iso-8859-1">`), UTF8],
    ["UTF-16LE by its mark", utf16([0xff, 0xfe]), OTHER],
    ["UTF-16BE by its mark", utf16([0xfe, 0xff]), OTHER],
    ["UTF-8 by its mark", new Uint8Array([0xef, 0xbb, 0xbf, 0x3c, 0x70, 0x3e]), UTF8],
    ["too big to buffer", page('<meta charset="iso-8859-1">') + "<p>".repeat(400_000), OTHER],
  ];
  await using site = await Site.lay(
    Object.fromEntries(cases.flatMap(([, text], index) => [[`${index}.html`, text], [`${index}.htm`, text]])),
  );
  const handler = handlerFor({ root: site.root });
  await each(t, cases, ([name]) => name, async (row) => {
    const index = cases.indexOf(row);
    for (const path of [`/${index}`, `/${index}.html`, `/${index}.htm`]) {
      for (const accept of ["identity", "gzip"]) {
        const { headers } = await get(handler, path, { "accept-encoding": accept });
        assertEquals(headers.get("content-type"), row[2], `${path} ${accept}`);
      }
    }
  });
  // The byte itself is not changed.
  site.write({ "byte.html": new Uint8Array([...encoder.encode("<meta charset=iso-8859-1>"), 0xe9]) });
  const response = await handler(new Request("http://localhost/byte"));
  assertEquals([response.headers.get("content-type"), (await response.bytes()).at(-1)], [OTHER, 0xe9]);
});

Deno.test("handler() sends a file without an extension as HTML if it starts like a page", async () => {
  const HTML = "text/html; charset=UTF-8";
  const TEXT = "text/plain; charset=UTF-8";
  const cases: Record<string, [content: string, type: string]> = {
    "lower": ["<!doctype html><p>", HTML],
    "upper": ["<!DOCTYPE HTML PUBLIC>", HTML],
    "spaces": ["\ufeff\n \t<!Doctype html>", HTML],
    "empty": ["", TEXT],
    "element": ["<html><p>", TEXT],
    "inside": ["text <!doctype html>", TEXT],
    "other": ["<!doctype svg>", TEXT],
    "charset": ['<!doctype html><meta charset="gbk">', "text/html"],
    "a.txt": ["<!doctype html>", TEXT],
    "a.unknown": ["<!doctype html>", TEXT],
  };
  await using site = await Site.lay(
    Object.fromEntries(Object.entries(cases).map(([name, [content]]) => [name, content])),
  );
  const handler = handlerFor({ root: site.root });
  for (const [name, [, type]] of Object.entries(cases)) {
    assertEquals((await get(handler, `/${name}`)).headers.get("content-type"), type, name);
  }
});

Deno.test({
  name: "handler() serves files whose names contain ~ behind a link out of the root, whatever the target's path",
  ignore: isWindows,
  async fn() {
    await using outside = await Site.lay({ ".store/notes.txt": "notes", ".store/folder/a~1.txt": "a" });
    await using site = await Site.lay({
      "notes": { link: outside.file(".store/notes.txt") },
      "notes~": { link: outside.file(".store/notes.txt") },
      "folder~1": { link: outside.file(".store/folder") },
    });
    const handler = handlerFor({ root: site.root, symlinks: true });
    for (const [path, text] of [["/notes", "notes"], ["/notes~", "notes"], ["/folder~1/a~1.txt", "a"]] as const) {
      const response = await get(handler, path);
      assertEquals([response.status, response.text], [200, text], path);
    }
  },
});

Deno.test("handler() looks once per level for a path below many folders", async () => {
  const depth = 300;
  await using site = await Site.lay({ [`${"d/".repeat(depth)}a.txt`]: "a", "404.html": "none" });
  const fs = process.getBuiltinModule("node:fs");
  const { existsSync } = fs;
  const { statSync, lstatSync, realPathSync } = Deno;
  let count = 0;
  try {
    // The handler uses what it finds here at its first request.
    fs.existsSync = (path) => (count++, existsSync(path));
    Deno.statSync = (path) => (count++, statSync(path));
    Deno.lstatSync = (path) => (count++, lstatSync(path));
    Deno.realPathSync = (path) => (count++, realPathSync(path));
    const handler = createHandler({ root: site.root }); // treats the folders as new
    assertEquals((await get(handler, `/${"d/".repeat(depth)}nothing`)).text, "none");
  } finally {
    fs.existsSync = existsSync;
    Object.assign(Deno, { statSync, lstatSync, realPathSync });
  }
  assert(count > 0 && count < 10 * depth, `${count} looks for ${depth} levels`);
});

Deno.test({
  name: "main() responds with a 403 instead of a prompt if Deno may not read the target of a link",
  ignore: !isLinux,
  async fn() {
    await using outside = await Site.lay({ "secret.txt": "SECRET", "folder/secret.txt": "SECRET" });
    await using site = await Site.lay({
      "www/a.txt": "a",
      "www/inner": { link: "a.txt" },
      "www/secret.txt": { link: outside.file("secret.txt") },
      "www/folder": { link: outside.file("folder") },
      "www/page.html": { link: outside.file("secret.txt") },
      "link": { link: outside.file("folder") },
    });
    // On a terminal, so that Deno could prompt.
    const shell =
      `command="exec $SERVER"; exec script --quiet --return --command "\${command/\\'--no-prompt\\'/}" /dev/null`;
    const statusesOf = async (root: string, paths: string[]) => {
      const permissions = ["--allow-net", `--allow-read=${root}`];
      const args = ["--port", "0", "--host", "127.0.0.1", "--symlinks", root];
      await using server = await Served.start(args, { permissions, shell });
      const statuses = [];
      for (const path of paths) statuses.push((await rawGet(server.port, path)).status);
      assert(!/Allow\?|requests read access/.test(server.log), server.log);
      return statuses;
    };
    const forbidden = ["/secret.txt", "/folder", "/folder/", "/folder/secret.txt", "/page", "/page.html"];
    const statuses = await Promise.all([
      statusesOf(site.file("www"), [...forbidden, "/a.txt", "/inner", "/nothing", "/"]),
      statusesOf(site.file("link"), ["/secret.txt", "/"]),
    ]);
    assertEquals(statuses, [[...forbidden.map(() => 403), 200, 200, 404, 200], [403, 403]]);
  },
});

/**
 * Runs a function once when the next file is opened, or when the state or the first bytes of an open file are read. Small
 * files are opened by node:fs, others by Deno.
 */
async function changeDuring(step: string, change: () => void, fn: () => Promise<unknown>): Promise<void> {
  const fs = process.getBuiltinModule("node:fs");
  const { open } = Deno;
  const { openSync, readSync } = fs;
  const { statSync } = Deno.FsFile.prototype;
  const restore = () => {
    Deno.open = open;
    Object.assign(fs, { openSync, readSync });
    Object.assign(Deno.FsFile.prototype, { statSync });
  };
  const changeOnce = () => {
    restore();
    change();
  };
  try {
    if (step === "before it is opened") {
      Deno.open = (path, options) => (changeOnce(), open(path, options));
      fs.openSync = (...args) => (changeOnce(), openSync(...args));
    } else if (step === "after it is opened") {
      Deno.open = async (path, options) => {
        const file = await open(path, options);
        if (Deno.open !== open) changeOnce();
        return file;
      };
      fs.openSync = (...args) => {
        const file = openSync(...args);
        changeOnce();
        return file;
      };
    } else if (step === "after its state or its bytes are read") {
      Deno.FsFile.prototype.statSync = function () {
        const info = statSync.call(this);
        if (Deno.FsFile.prototype.statSync !== statSync) changeOnce();
        return info;
      };
      fs.readSync = ((...args: Parameters<typeof readSync>) => {
        const count = readSync(...args);
        changeOnce();
        return count;
      }) as typeof readSync;
    }
    await fn();
  } finally {
    restore();
  }
}

Deno.test("handler() serves one whole version of a file that changes between look-up, open and read", async (t) => {
  const text = (word: string, size: number) => `${word} ${size} `.repeat(Math.ceil(size / 8)).slice(0, size);
  const [SMALL, BIG] = [5000, 50_000];
  await using site = await Site.lay({});
  const file = site.file("a.txt");
  const replace = (content: string) => {
    site.write({ "new": content });
    Deno.renameSync(site.file("new"), file);
  };
  // The new content, or undefined if the file is deleted.
  const changes: Record<string, (old: string) => string | undefined> = {
    "replaced by one of the same size": (old) => text("new", old.length),
    "replaced by a smaller one": () => text("new", 4000),
    "replaced by a bigger one": () => text("new", 70_000),
    "truncated": (old) => old.slice(0, 3000),
    "appended to": (old) => old + text("more", 3000),
    "appended to until it is big": (old) => old + text("more", 40_000),
    "deleted": () => undefined,
  };
  const requests: Record<string, string>[] = [
    { "accept-encoding": "identity" },
    { "accept-encoding": "gzip" },
    { range: "bytes=100-2099" },
    { range: "bytes=-100" },
  ];
  const steps = ["before it is opened", "after it is opened", "after its state or its bytes are read"];
  const everyRow = Object.keys(changes).flatMap((name) =>
    steps.flatMap((step) => [SMALL, BIG].map((size) => ({ name, step, size })))
  );
  const rows = everyRow.filter(({ name, step }) =>
    CAN_REPLACE || step.startsWith("before") || !/^(?:replaced|deleted)/.test(name)
  );
  await each(t, rows, ({ name, step, size }) => `${size} bytes, ${name} ${step}`, async ({ name, step, size }) => {
    for (const headers of requests) {
      for (const isCached of size === SMALL ? [false] : [false, true]) { // a small cached file is not opened
        const old = text("old", size);
        const now = changes[name]!(old);
        replace(old);
        const handler = handlerFor({ root: site.root, limits: SMALL_READS });
        if (isCached) await get(handler, "/a.txt", { range: "bytes=0-0" });
        const change = () => {
          if (now === undefined) Deno.removeSync(file);
          else if (name.startsWith("replaced")) replace(now);
          else if (now.length < old.length) Deno.truncateSync(file, now.length);
          else Deno.writeTextFileSync(file, now.slice(old.length), { append: true });
        };
        const request = () => handler(new Request("http://localhost/a.txt", { headers }));
        const outcome = `${JSON.stringify(headers)}${isCached ? " cached" : ""}`;
        let isChanged = false;
        await changeDuring(step, () => (isChanged = true, change()), async () => {
          const response = await request();
          const expected = [old, ...now === undefined ? [] : [now]].flatMap((whole) => partOf(whole, headers.range));
          const received = await bodyOf(response).catch((error) => error as Error);
          if (received instanceof Error) {
            // Bytes that were announced do not exist any more.
            assert(now !== undefined && now.length < old.length, `${outcome}: ${received}`);
            assert(/truncated|early|unexpected/i.test(received.message), `${outcome}: ${received}`);
          } else if (response.status === 404) {
            assertEquals(now, undefined, outcome);
          } else {
            assertEquals(response.status, headers.range ? 206 : 200, outcome);
            assert(expected.includes(received), `${outcome}: ${received.length} bytes: ${received.slice(0, 40)}`);
            const length = response.headers.get("content-length");
            const isPlain = !response.headers.has("content-encoding");
            if (isPlain) assertEquals(length, `${received.length}`, outcome);
          }
        });
        if (CAN_SEE_OPEN_FILES) await until(() => openFiles(site.root) === 0, `files to be closed: ${outcome}`);
        if (!isChanged) change(); // this request did not need the step
        const { status, text: next } = await getDecoded(handler, "/a.txt", headers["accept-encoding"] ?? "");
        assertEquals(status, now === undefined ? 404 : 200, outcome);
        assert(now === undefined || next === now, `${outcome}: ${next.length} bytes in the next response`);
      }
    }
  });
});

/** Returns the part of a text for the two ranges above, or all of it. */
function partOf(text: string, range?: string): string {
  return range === undefined ? text : range === "bytes=-100" ? text.slice(-100) : text.slice(100, 2100);
}

async function bodyOf(response: Response): Promise<string> {
  const bytes = await response.bytes();
  return decoder.decode(response.headers.get("content-encoding") === "gzip" ? gunzipSync(bytes) : bytes);
}

Deno.test("handler() serves a file that is written without a pause, with the announced length", async (t) => {
  const forms = [{ accept: "identity", range: "" }, { accept: "gzip", range: "" }, {
    accept: "gzip",
    range: "bytes=-500",
  }];
  const sizes = [{ size: 5000, readSize: Infinity }, { size: 200_000, readSize: 100_000 }];
  const rows = sizes.flatMap((size) => forms.map((form) => ({ ...size, ...form })));
  const nameOf = (row: typeof rows[number]) => `${rows.indexOf(row)}.log`;
  await using site = await Site.lay(Object.fromEntries(rows.map((row) => [nameOf(row), "x".repeat(row.size)])));
  await using _writing = repeatInProcess(
    site.root,
    `globalThis.logs ??= [...Deno.readDirSync(root)].map(({ name }) => Deno.openSync(root + "/" + name, { append: true }));
       for (const log of logs) log.writeSync(new Uint8Array([120]));`, // single bytes, so that the files grow slowly
  );
  await each(t, rows, ({ size, accept, range }) => `${size} ${accept} ${range}`, async (row) => {
    const { size, readSize, accept, range } = row;
    const handler = createHandler({ root: site.root, limits: { ...LIMITS, readSize } });
    await using server = start(handler);
    const path = `/${nameOf(row)}`;
    const url = `http://127.0.0.1:${server.port}${path}`;
    let [last, growths, failures] = [0, 0, 0];
    const hasStarted = async () => (await Deno.stat(site.file(nameOf(row)))).size > size;
    await until(hasStarted, "the writer");
    const headers: Record<string, string> = { "accept-encoding": accept, ...range && { range } };
    for (let count = 0; count < 30 || growths < 20 && count < 1000; count++) {
      const response = await fetch(url, { headers });
      const text = await response.text(); // fails if there are fewer bytes than announced
      if (response.status !== (range ? 206 : 200)) failures++;
      assert(!/[^x]/.test(text), "other bytes");
      const [, first, total] = /^bytes (\d+)-\d+\/(\d+)$/.exec(response.headers.get("content-range") ?? "") ?? [];
      const whole = range ? Number(total) : text.length;
      if (range) assertEquals(text.length, whole - Number(first));
      const isPlain = range !== "" || accept === "identity";
      if (isPlain) assertEquals(response.headers.get("content-length"), `${text.length}`);
      assert(whole >= Math.max(size, last), `${whole} bytes after ${last}`);
      if (whole > last) growths++;
      last = whole;
      // Over HTTP/2, extra bytes are an error.
      const direct = await handler(new Request(`https://localhost${path}`, { headers: { range: "bytes=0-" } }));
      assertEquals(`${(await direct.bytes()).length}`, direct.headers.get("content-length"));
    }
    assertEquals(failures, 0);
    assert(growths >= 20, `the file grew only ${growths} times`);
  });
  if (isLinux) assertEquals(openFiles(site.root), 0); // on Windows, the files of the writer count, too
});

// Encodings ----------------------------------------------------------------------------------------------------------

Deno.test("handler() keeps the most recently used files within the limit of the cache", async () => {
  const size = 100_000;
  const names = Array.from({ length: 10 }, (_, index) => `${index}.bin`);
  await using site = await Site.lay(Object.fromEntries(names.map((name) => [name, new Uint8Array(size)])));
  const handler = handlerFor({ root: site.root, limits: { cacheSize: 9.5 * (size + 10_000) } }); // room for nine
  const isCached = async (name: string) =>
    await bytesRead(async () => void await handler(new Request(`http://localhost/${name}`))) < size;
  for (const name of names.slice(0, 9)) assert(!await isCached(name), name);
  for (const name of names.slice(0, 9)) assert(await isCached(name), name);
  assert(await isCached("0.bin")); // now 1.bin is the least recently used file
  assert(!await isCached("9.bin"));
  assert(await isCached("0.bin"), "a recently used file was removed");
  assert(!await isCached("1.bin"), "the cache has no limit");
});

Deno.test("handler() serves cached files that can no longer be opened", async (t) => {
  await using site = await Site.lay({
    "index.html": "index",
    "a.txt": "a".repeat(5000),
    "a.bin": new Uint8Array(5000).fill(255),
    "other.txt": "other",
  });
  const files = ["index.html", "a.txt", "a.bin", "other.txt"].map((name) => site.file(name));
  for (const file of files) await chmod(file, 0o600);
  const handler = handlerFor({ root: site.root });
  const cases = [["/", ""], ["/index.html", ""], ["/a.txt", ""], ["/a.txt", "zstd"], ["/a.txt", "gzip"], [
    "/a.bin",
    "br",
  ]];
  await each(t, cases as [string, string][], (row) => row.join(" "), async ([path, accept]) => {
    const first = await getDecoded(handler, path, accept);
    await withoutAccess(files, async () => {
      const again = await getDecoded(handler, `${path}?query`, accept);
      assertEquals([again.status, again.text, [...again.headers]], [200, first.text, [...first.headers]]);
      const etag = first.headers.get("etag")!;
      assertEquals((await get(handler, path, { "if-none-match": etag, "accept-encoding": accept })).status, 304);
      const failed = await get(handler, path, { "if-match": "x" });
      assertEquals([failed.status, failed.headers.get("x-content-type-options")], [412, "nosniff"]);
      assertEquals((await get(handler, path, { range: "bytes=0-0" })).status, 206);
      assertEquals((await get(handler, path, { range: "bytes=9999-" })).status, 416);
      assertEquals((await fetchFrom(handler, path, { method: "HEAD" })).status, 200);
    });
  });
  await withoutAccess(files, async () => assertEquals((await get(handler, "/other.txt")).status, 403));
  assertEquals((await fetchFrom(handler, "/a.txt", { method: "POST" })).status, 405);
  assertEquals((await fetchFrom(handler, "/a.txt", { method: "OPTIONS" })).status, 204);
});

Deno.test("handler() does not cache a file that was just written", async () => {
  await using site = await Site.lay({ "a.txt": "one" });
  await chmod(site.file("a.txt"), 0o600);
  const statusOfSecond = async (handler: Handler) => {
    assertEquals((await get(handler, "/a.txt")).status, 200);
    return (await withoutAccess([site.file("a.txt")], () => get(handler, "/a.txt"))).status;
  };
  assertEquals(await statusOfSecond(createHandler({ root: site.root })), 403);
  assertEquals(await statusOfSecond(createHandler({ root: site.root, now: () => Date.now() - 1e6 })), 403);
  assertEquals(await statusOfSecond(handlerFor({ root: site.root })), 200);
});

Deno.test("handler() opens a small file once, without a thread, and then serves it from its cache", async () => {
  await using site = await Site.lay({ "a.txt": "a" });
  const handler = handlerFor({ root: site.root });
  const fs = process.getBuiltinModule("node:fs");
  const { openSync } = fs;
  const { open } = Deno;
  const opened: string[] = [];
  try {
    fs.openSync = (...args) => (opened.push("openSync"), openSync(...args));
    Deno.open = (...args) => (opened.push("open"), open(...args));
    for (let count = 0; count < 2; count++) assertEquals((await get(handler, "/a.txt")).text, "a");
  } finally {
    [Deno.open, fs.openSync] = [open, openSync];
  }
  assertEquals(opened, ["openSync"]);
});

Deno.test("handler() reads a file once for simultaneous first requests", async (t) => {
  const size = 500_000;
  await using site = await Site.lay({ "a.txt": "a".repeat(size) });
  await Deno.writeFile(site.file("a.txt.br"), new Uint8Array(size));
  await each(
    t,
    [["identity", 1], ["gzip", 1], ["zstd", 1], ["br", 2]] as const,
    ([accept]) => accept,
    async ([accept, files]) => {
      const handler = handlerFor({ root: site.root });
      const request = () => new Request("http://localhost/a.txt", { headers: { "accept-encoding": accept } });
      const bytes = await bytesRead(async () => {
        const bodies = await Promise.all(Array.from({ length: 50 }, async () => (await handler(request())).bytes()));
        for (const body of bodies) assertEquals(body.length, bodies[0]!.length);
      });
      assert(bytes < (files + 0.5) * size, `${bytes}`);
    },
  );
});

/** Pauses the first read of a file after it completes, until `resume` is called. */
async function holdFirstRead(fn: (hasRead: Promise<void>, resume: () => void) => Promise<void>): Promise<void> {
  const { read } = Deno.FsFile.prototype;
  const hasRead = Promise.withResolvers<void>();
  const resumed = Promise.withResolvers<void>();
  try {
    Deno.FsFile.prototype.read = async function (buffer) {
      const count = await read.call(this, buffer);
      hasRead.resolve();
      await resumed.promise;
      return count;
    };
    await fn(hasRead.promise, () => {
      Deno.FsFile.prototype.read = read;
      resumed.resolve();
    });
  } finally {
    Deno.FsFile.prototype.read = read;
  }
}

Deno.test("handler() serves a change made while an earlier request is in flight", async (t) => {
  await using site = await Site.lay({});
  const file = site.file("a.txt");
  const time = new Date("2020-01-01");
  const write = (text: string) => {
    Deno.writeTextFileSync(file, text.padEnd(100_000)); // needs more than one read
    Deno.utimeSync(file, time, time); // the same mtime, as with a coarse clock
  };
  // A change of an old file is detected by its version. A file that was just written is never cached.
  const rows: [() => number, string][] = [[later, "other".padEnd(100_001)], [Date.now, "same"]];
  await each(t, rows, ([, text]) => text.trim(), async ([now, text]) => {
    write("once");
    const handler = createHandler({ root: site.root, now });
    await holdFirstRead(async (hasRead, resume) => {
      const first = get(handler, "/a.txt");
      await hasRead;
      write(text);
      resume();
      const second = get(handler, "/a.txt");
      assertEquals([(await first).text.trim(), (await second).text.trim()], ["once", text.trim()]);
    });
    assertEquals((await get(handler, "/a.txt")).text.trim(), text.trim());
  });
});

Deno.test("handler() serves a change on the very next request, whatever is cached", async (t) => {
  const OLD = "old ".repeat(1000);
  const NEW = "new ".repeat(1000);
  const time = new Date("2020-01-01");
  await using outside = await Site.lay({ "secret.txt": "SECRET", "a.txt": "SECRET" });
  await using site = await Site.lay({});
  type Changes = Record<string, [change: (file: string) => Promise<unknown>, status: number, text: string]>;
  const linkChanges: Changes = {
    "replaced by a link to another file": [
      async (file) => {
        await Deno.writeTextFile(`${file}.other`, NEW);
        await Deno.remove(file);
        link(`${file}.other`, file);
      },
      200,
      NEW,
    ],
    "replaced by a link to the outside": [
      async (file) => {
        await Deno.remove(file);
        link(outside.file("secret.txt"), file);
      },
      404,
      "404 Not Found\n",
    ],
    "folder replaced by a link to the outside": [
      async (file) => {
        await Deno.remove(dirname(file), { recursive: true });
        link(outside.root, dirname(file));
      },
      404,
      "404 Not Found\n",
    ],
    "folder moved outside and linked": [
      async (file) => {
        const moved = join(site.root, crypto.randomUUID());
        await Deno.rename(dirname(file), moved);
        link(moved, dirname(file));
      },
      404,
      "404 Not Found\n",
    ],
  };
  const changes: Changes = {
    "overwritten": [(file) => Deno.writeTextFile(file, NEW), 200, NEW],
    "overwritten, same mtime": [
      async (file) => {
        await Deno.writeTextFile(file, NEW);
        await Deno.utime(file, time, time);
      },
      200,
      NEW,
    ],
    "replaced, same mtime": [
      async (file) => {
        await Deno.writeTextFile(`${file}.tmp`, NEW);
        await Deno.utime(`${file}.tmp`, time, time);
        await Deno.rename(`${file}.tmp`, file);
      },
      200,
      NEW,
    ],
    "truncated": [(file) => Deno.truncate(file, 2000), 200, OLD.slice(0, 2000)],
    "emptied": [(file) => Deno.truncate(file, 0), 200, ""],
    "grown": [(file) => Deno.writeTextFile(file, NEW, { append: true }), 200, OLD + NEW],
    "deleted": [(file) => Deno.remove(file), 404, "404 Not Found\n"],
    "deleted and recreated": [
      async (file) => {
        await Deno.remove(file);
        await Deno.writeTextFile(file, NEW);
      },
      200,
      NEW,
    ],
    ...HAS_LINKS ? linkChanges : {},
    "replaced by a folder": [
      async (file) => {
        await Deno.remove(file);
        await Deno.mkdir(file);
      },
      301,
      "",
    ],
    ...!canBeDenied ? {} : { "made unreadable": [(file) => Deno.chmod(file, 0), 403, "403 Forbidden\n"] },
  };
  const states = ["cold", "cached", "cached in another encoding"] as const;
  const trials = Object.keys(changes).flatMap((name) =>
    ["identity", "zstd", "gzip"].flatMap((accept) =>
      states.map((state) => ({ name, accept, state, folder: crypto.randomUUID() }))
    )
  );
  for (const { folder } of trials) site.write({ [`${folder}/www/sub/a.txt`]: OLD });
  const handlers = new Map<string, Handler>();
  for (const { accept, state, folder } of trials) {
    const root = join(site.root, folder, "www");
    await Deno.utime(join(root, "sub/a.txt"), time, time);
    const handler = handlerFor({ root });
    handlers.set(folder, handler);
    const warm = state === "cold" ? [] : [state === "cached" ? accept : accept === "zstd" ? "gzip" : "zstd"];
    for (const encoding of [...warm, ...warm]) {
      assertEquals((await getDecoded(handler, "/sub/a.txt", encoding)).text, OLD);
    }
  }
  await clockTick(join(site.root, trials.at(-1)!.folder, "www/sub/a.txt"));
  for (const { name, accept, state, folder } of trials) {
    await t.step(`${name}, ${accept}, ${state}`, async () => {
      const [change, status, text] = changes[name]!;
      await change(join(site.root, folder, "www/sub/a.txt"));
      const response = await withoutRights(() => getDecoded(handlers.get(folder)!, "/sub/a.txt", accept));
      assertEquals([response.status, response.text], [status, text]);
    });
  }
});

Deno.test("handler() sends the same response cold and cached, in every encoding and method", async () => {
  await using site = await Site.lay({
    "a.js": "let a = 1;\n".repeat(500),
    "é.html": "<p>é</p>".repeat(500),
    "a.png": new Uint8Array(5000),
  });
  const cached = handlerFor({ root: site.root });
  for (const path of ["/a.js", "/%C3%A9.html", "/a.png"]) {
    for (const accept of ["identity", "gzip", "zstd", "gzip, deflate, br, zstd"]) {
      await getDecoded(cached, path, accept);
      const warm = await getDecoded(cached, path, accept);
      const head = await getDecoded(cached, path, accept, "HEAD");
      const cold = await getDecoded(handlerFor({ root: site.root }), path, accept);
      assertEquals([...warm.headers], [...cold.headers], `${path} ${accept}`);
      assertEquals([...head.headers], [...cold.headers], `${path} ${accept}`);
      assertEquals([warm.status, warm.text, head.text], [cold.status, cold.text, ""]);
      assertEquals(cold.text, await Deno.readTextFile(join(site.root, decodeURIComponent(path))));
    }
  }
});

Deno.test("handler() does not share changes to a response's headers with later responses", async () => {
  await using site = await Site.lay({ "a.txt": "a".repeat(5000), "404.html": "none" });
  const handler = handlerFor({ root: site.root });
  const requestHeaders: Record<string, string>[] = [
    {},
    { "accept-encoding": "zstd" },
    { "if-none-match": "*" },
    { "if-match": "x" },
    { range: "bytes=0-99" },
  ];
  for (const path of ["/a.txt", "/nothing"]) {
    for (const headers of requestHeaders) {
      const request = () => new Request(`http://localhost${path}`, { headers });
      const first = await (await handler(request())).bytes();
      for (let count = 0; count < 3; count++) {
        const response = await handler(request());
        response.headers.set("content-type", "changed");
        response.headers.append("x-changed", "yes");
        await response.body?.cancel();
      }
      const last = await handler(request());
      assertEquals([last.headers.get("x-changed"), last.headers.get("content-type") === "changed"], [null, false]);
      assertEquals(await last.bytes(), first);
    }
  }
});

Deno.test("acceptedEncodings() follows RFC 9110, 12.5.3", () => {
  const cases: [string, string[]][] = [
    ["", ["identity"]],
    ["gzip", ["gzip", "identity"]],
    ["gzip, deflate, br, zstd", ["br", "zstd", "gzip", "identity"]],
    ["gzip;q=1, br;q=0.5", ["gzip", "br", "identity"]],
    ["br;q=0.5, gzip;q=0.501", ["gzip", "br", "identity"]],
    ["gzip;q=0", ["identity"]],
    ["gzip;q=0.0, br", ["br", "identity"]],
    ["*", ["br", "zstd", "gzip", "identity"]],
    ["*;q=0", []],
    ["*;q=0, gzip", ["gzip"]],
    ["gzip;q=0, *", ["br", "zstd", "identity"]],
    ["identity;q=0", []],
    ["identity;q=0, gzip;q=0.1", ["gzip"]],
    ["identity, gzip;q=0.5", ["identity", "gzip"]],
    ["identity;q=0.5, gzip;q=0.5", ["gzip", "identity"]],
    ["GZIP; Q=0.5 , BR ;q=0.4", ["gzip", "br", "identity"]],
    ["x-gzip", ["gzip", "identity"]],
    ["deflate, compress, nonsense", ["identity"]],
    ["gzip;q=2", ["identity"]],
    ["gzip;q=x, br;q=", ["identity"]],
    [",, ,gzip,", ["gzip", "identity"]],
  ];
  for (const [header, encodings] of cases) assertEquals(acceptedEncodings(header) as string[], encodings, header);
});

Deno.test("handler() compresses compressible files and sends Vary", async () => {
  const text = "some text that repeats itself; ".repeat(100);
  await using site = await Site.lay({
    "a.js": text,
    "a.svg": text,
    "a.json": text,
    "a.wasm": text,
    "LICENSE": text,
    "page.html": text,
    "small.txt": "x".repeat(1023),
    "noise.txt": crypto.getRandomValues(new Uint8Array(2000)),
    "a.png": text,
    "a.woff2": text,
    "a.mp4": text,
    "a.zip": text,
  });
  const handler = handlerFor({ root: site.root });
  const encodingOf = async (path: string, accept: string) => {
    const { status, headers, text: decoded } = await getDecoded(handler, path, accept);
    assertEquals(status, 200);
    const isText = /noise|small/.test(path) || decoded === text;
    assert(isText, `${path} ${accept}`);
    const { headers: revalidated } = await get(handler, path, {
      "accept-encoding": accept,
      "if-none-match": headers.get("etag")!,
    });
    assertEquals(revalidated.get("vary"), headers.get("vary"), path);
    return [headers.get("content-encoding"), headers.get("vary")];
  };
  for (const path of ["/a.js", "/a.svg", "/a.json", "/a.wasm", "/LICENSE", "/page.html", "/page"]) {
    assertEquals(await encodingOf(path, "gzip, deflate, br, zstd"), [BEST, "Accept-Encoding"], path);
    assertEquals(await encodingOf(path, "gzip"), ["gzip", "Accept-Encoding"], path);
    assertEquals(await encodingOf(path, "br"), [null, "Accept-Encoding"], path);
    assertEquals(await encodingOf(path, ""), [null, "Accept-Encoding"], path);
  }
  assertEquals((await get(handler, "/a.js")).headers.get("content-encoding"), null);
  for (const path of ["/a.png", "/a.woff2", "/a.mp4", "/a.zip"]) {
    assertEquals(await encodingOf(path, "gzip, br"), [null, null], path);
  }
  assertEquals(await encodingOf("/small.txt", "zstd"), [null, "Accept-Encoding"]);
  assertEquals(await encodingOf("/small.txt", "zstd, identity;q=0"), [null, "Accept-Encoding"]);
  assertEquals((await encodingOf("/noise.txt", "zstd"))[0], null, "compression would not make it smaller");

  for (const options of [{ compress: false }, { headers: [["Content-Encoding", "x-mine"]] as [string, string][] }]) {
    const { headers, text: sent } = await get(handlerFor({ root: site.root, ...options }), "/a.js", {
      "accept-encoding": "zstd",
    });
    assertEquals([sent, headers.get("vary")], [text, null]);
  }
});

Deno.test({
  name: "handler() serves the precompressed file unless it is older than the original",
  ignore: isOldDeno, // which has no zstd
  async fn() {
    const text = "original ".repeat(200);
    const earlier = new Date("2020-01-01");
    const after = new Date("2020-01-02");
    await using outside = await Site.lay({ "secret.txt": "SECRET" });
    await using site = await Site.lay({
      "a.js": text,
      "a.js.br": brotliCompressSync("precompressed br"),
      "a.js.gz": gzipSync("precompressed gz"),
      "a.js.zst": zstdCompressSync("precompressed zst"),
      "stale.js": text,
      "stale.js.br": brotliCompressSync("stale"),
      "small.js": "x",
      "small.js.gz": gzipSync("x"),
      "leak.js": text,
      "leak.js.gz": { link: join(outside.root, "secret.txt") },
      "folder.js": text,
      "folder.js.gz/x": "x",
    });
    const file = (name: string) => join(site.root, name);
    for (const name of ["a.js", "small.js", "leak.js"]) await Deno.utime(file(name), earlier, earlier);
    for (const name of ["a.js.br", "a.js.gz", "a.js.zst", "stale.js"]) await Deno.utime(file(name), after, after);
    await Deno.utime(file("stale.js.br"), earlier, earlier);

    const handler = handlerFor({ root: site.root });
    const sent = async (path: string, accept: string) => {
      const { headers, text } = await getDecoded(handler, path, accept);
      assertEquals(headers.get("content-type"), "text/javascript; charset=UTF-8");
      assertEquals(headers.get("vary"), "Accept-Encoding");
      return [headers.get("content-encoding"), text];
    };
    for (let count = 0; count < 2; count++) { // cold, then cached
      assertEquals(await sent("/a.js", "gzip, br, zstd"), ["br", "precompressed br"]);
      assertEquals(await sent("/a.js", "gzip, zstd"), ["zstd", "precompressed zst"]);
      assertEquals(await sent("/a.js", "gzip"), ["gzip", "precompressed gz"]);
      assertEquals(await sent("/a.js", ""), [null, text]);
      assertEquals(await sent("/stale.js", "br"), [null, text]);
      assertEquals(await sent("/stale.js", "br, gzip"), ["gzip", text]);
      assertEquals(await sent("/small.js", "br, gzip"), ["gzip", "x"]);
      for (const path of ["/leak.js", "/folder.js"]) {
        assertEquals(await sent(path, "gzip"), ["gzip", text], path);
      }
    }
    const etags = new Set();
    for (const accept of ["", "gzip", "br"]) {
      const { headers } = await getDecoded(handler, "/a.js", accept);
      etags.add(headers.get("etag"));
      const again = await get(handler, "/a.js", { "accept-encoding": accept, "if-none-match": headers.get("etag")! });
      assertEquals(again.status, 304);
    }
    assertEquals(etags.size, 3, "each encoding has its own ETag");

    await Deno.writeFile(file("a.js.br"), brotliCompressSync("changed"));
    await Deno.remove(file("a.js.gz"));
    await Deno.remove(file("a.js.zst"));
    assertEquals(await sent("/a.js", "br"), ["br", "changed"]);
    assertEquals(await sent("/a.js", "gzip"), ["gzip", text]);
    assertEquals(await sent("/a.js", "zstd"), ["zstd", text]);
    const { headers, text: part } = await get(handler, "/a.js", { "accept-encoding": "br", range: "bytes=0-7" });
    assertEquals([headers.get("content-encoding"), part], [null, "original"]);
  },
});

Deno.test("handler() serves another encoding after the precompressed file is deleted", async () => {
  const text = "original ".repeat(200);
  await using site = await Site.lay({ "a.js": text, "a.js.br": brotliCompressSync("precompressed") });
  const handler = handlerFor({ root: site.root });
  const sent = async () => {
    const { headers, text } = await getDecoded(handler, "/a.js", "br, gzip");
    return [headers.get("content-encoding"), text];
  };
  for (let count = 0; count < 2; count++) assertEquals(await sent(), ["br", "precompressed"]);
  Deno.removeSync(site.file("a.js.br"));
  assertEquals(await sent(), ["gzip", text]);
});

Deno.test("handler() forgets the file used least recently when its cache is full", async () => {
  const size = 100_000;
  const names = ["one", "two", "three"];
  await using site = await Site.lay(Object.fromEntries(names.map((name) => [name, new Uint8Array(size)])));
  const handler = handlerFor({ root: site.root, limits: { cacheSize: 2.5 * size } });
  const isRead = async (name: string) => await bytesRead(() => get(handler, `/${name}`)) >= size;
  for (const name of names) assert(await isRead(name), name);
  assertEquals([await isRead("three"), await isRead("two"), await isRead("one")], [false, false, true]);
  assertEquals([await isRead("one"), await isRead("two"), await isRead("three")], [false, false, true]);
});

Deno.test("handler() caches a file once it is no longer new", async () => {
  await using site = await Site.lay({ "a.bin": new Uint8Array(500_000) });
  let now = Date.now();
  const handler = createHandler({ root: site.root, now: () => now });
  await get(handler, "/a.bin");
  now += 60_000;
  assert(await bytesRead(() => get(handler, "/a.bin")) >= 500_000);
  assert(await bytesRead(() => get(handler, "/a.bin")) < 500_000);
});

Deno.test("handler() serves a precompressed file with the Content-Type and Vary of its original", async (t) => {
  const text = "original ".repeat(200);
  const names = ["LICENSE", "app.ts", "a.js"];
  const files = names.flatMap((name) => [[name, text], [`${name}.br`, brotliCompressSync(text)]]);
  await using site = await Site.lay(Object.fromEntries(files));
  const handler = handlerFor({ root: site.root });
  await each(t, names, (name) => name, async (name) => {
    const headersOf = async (accept: string) => {
      const { headers, text: sent } = await getDecoded(handler, `/${name}`, accept);
      assertEquals(sent, text);
      return ["content-encoding", "content-type", "vary"].map((header) => headers.get(header));
    };
    const [, ...expected] = await headersOf("identity");
    assertEquals(await headersOf("br"), ["br", ...expected]);
    assertEquals(expected[1], "Accept-Encoding");
  });
});

Deno.test({
  name: "handler() leaves no file open after a HEAD request or an unread body",
  ignore: !CAN_SEE_OPEN_FILES,
  async fn() {
    await using site = await Site.lay({ "big.bin": "b".repeat(3 << 20) });
    const handler = handlerFor({ root: site.root });
    for (const method of ["HEAD", "GET"]) {
      for (const headers of [{ range: "bytes=5-" }, { range: "none" }]) {
        const response = await handler(new Request("http://localhost/big.bin", { method, headers }));
        await response.body?.cancel();
      }
    }
    await until(() => openFiles(site.root) === 0, "files to be closed");
  },
});

Deno.test("handler() ignores unreadable precompressed files", async () => {
  const text = "original ".repeat(200);
  await using site = await Site.lay({ "a.js": text, "a.js.br": "", "a.js.gz": "", "404.html": "none" });
  const files = ["a.js.br", "a.js.gz", "404.html"].map((name) => site.file(name));
  for (const file of files) await chmod(file, 0);
  const handler = handlerFor({ root: site.root });
  await withoutAccess(files, async () => {
    for (const [accept, encoding] of [["br", null], ["gzip", "gzip"], ["br, gzip", "gzip"]] as const) {
      const { status, headers, text: sent } = await getDecoded(handler, "/a.js", accept);
      assertEquals([status, headers.get("content-encoding"), sent], [200, encoding, text]);
    }
    const { status, text: line } = await get(handler, "/nothing"); // the unreadable 404.html is ignored too
    assertEquals([status, line], [404, "404 Not Found\n"]);
  });
});

Deno.test("handler() serves every change of the precompressed file, however quickly it follows", async () => {
  await using site = await Site.lay({ "a.js": "original ".repeat(200), "a.js.br": "" });
  const precompressed = site.file("a.js.br");
  const write = (text: string, time: Date) => {
    const quality = { params: { [zlib.BROTLI_PARAM_QUALITY]: 1 } }; // fast
    Deno.writeFileSync(precompressed, brotliCompressSync(text, quality));
    Deno.utimeSync(precompressed, time, time);
  };
  // Just written: two edits of the same length within one clock tick look the same.
  const early = createHandler({ root: site.root });
  for (const text of ["version one", "version two", "version 333"]) {
    write(text, new Date(Date.now() + 1e6));
    assertEquals((await getDecoded(early, "/a.js", "br")).text, text);
  }

  // While an earlier request is in flight. The original is cached, so only the precompressed file is read.
  const handler = handlerFor({ root: site.root });
  const past = new Date("2020-01-01");
  await Deno.utime(site.file("a.js"), past, past);
  const noise = () => crypto.getRandomValues(new Uint8Array(50_000)).toBase64(); // needs several reads
  const [old, changed] = [`old ${noise()}`, `changed ${noise()}, of another length`];
  write(old + noise(), past);
  await get(handler, "/a.js");
  await holdFirstRead(async (hasRead, resume) => {
    const first = getDecoded(handler, "/a.js", "br");
    await hasRead;
    write(changed + noise(), past);
    resume();
    const second = getDecoded(handler, "/a.js", "br");
    assertStringIncludes((await first).text, old);
    assertStringIncludes((await second).text, changed);
  });
  assertStringIncludes((await getDecoded(handler, "/a.js", "br")).text, changed);
});

Deno.test("handler() compresses files that are too big for the cache on the fly", async () => {
  const text = "a line of a long log\n".repeat(100_000);
  await using site = await Site.lay({
    "big.log": text,
    "big.csv": text,
    "big.csv.br": crypto.getRandomValues(new Uint8Array(60_000)),
  });
  const handler = handlerFor({ root: site.root });
  for (let count = 0; count < 2; count++) {
    const zipped = await getDecoded(handler, "/big.log", "gzip, br");
    assertEquals([zipped.headers.get("content-encoding"), zipped.headers.get("content-length")], ["gzip", null]);
    assert(zipped.text === text);
    const plain = await getDecoded(handler, "/big.log", "br");
    assertEquals([plain.headers.get("content-encoding"), plain.headers.get("content-length")], [
      null,
      `${text.length}`,
    ]);
    assert(plain.text === text);
    const precompressed = await handler(
      new Request("http://localhost/big.csv", { headers: { "accept-encoding": "br" } }),
    );
    assertEquals([precompressed.headers.get("content-encoding"), precompressed.headers.get("content-length")], [
      "br",
      "60000",
    ]);
    await precompressed.body?.cancel();
  }
});

Deno.test("handler() aborts the response if a file is truncated while it is compressed on the fly", async () => {
  const size = 50 << 20;
  await using site = await Site.lay({ "big.txt": "" });
  await Deno.truncate(site.file("big.txt"), size);
  const handler = handlerFor({ root: site.root });
  const response = await handler(new Request("http://localhost/big.txt", { headers: { "accept-encoding": "gzip" } }));
  assertEquals(response.headers.get("content-encoding"), "gzip");
  const reader = response.body!.getReader();
  await reader.read();
  await Deno.truncate(site.file("big.txt"), 1 << 20);
  await assertRejects(
    async () => {
      while (!(await reader.read()).done);
    },
    Error,
    "truncated",
  );
});

Deno.test("handler() serves other requests while it compresses many files for the first time", async () => {
  const text = "some text to compress\n".repeat(40_000);
  const count = 40;
  await using site = await Site.lay({
    ...Object.fromEntries(Array.from({ length: count }, (_, index) => [`${index}.txt`, `${index} ${text}`])),
    "small.txt": "small",
  });
  const handler = handlerFor({ root: site.root });
  const done: string[] = [];
  const requests = Array.from({ length: count }, async (_, index) => {
    await getDecoded(handler, `/${index}.txt`, "gzip");
    done.push("compressed");
  });
  for (let turn = 0; turn < 5; turn++) await new Promise((resolve) => setTimeout(resolve)); // all files are read
  await get(handler, "/small.txt");
  done.push("small");
  await Promise.all(requests);
  assert(done.indexOf("small") < count / 2, `served after ${done.indexOf("small")} compressed files`);
});

Deno.test("handler() yields to other requests between the chunks that it compresses on the fly", async () => {
  const size = 1_100_000;
  await using site = await Site.lay({ "big.txt": "x".repeat(size) });
  const handler = handlerFor({ root: site.root });
  const { CompressionStream } = globalThis;
  const readable = Object.getOwnPropertyDescriptor(Deno.FsFile.prototype, "readable")!;
  let [chunks, mostChunks, started, mostStarted] = [0, 0, 0, 0]; // between two turns of the event loop
  let timer: ReturnType<typeof setTimeout> | undefined;
  const turn = () => {
    [mostChunks, mostStarted] = [Math.max(chunks, mostChunks), Math.max(started, mostStarted)];
    [chunks, started] = [0, 0];
    timer = setTimeout(turn);
  };
  try {
    globalThis.CompressionStream = class extends TransformStream {
      constructor() {
        super({ transform: (chunk, controller) => (chunks++, controller.enqueue(chunk)) });
        started++;
      }
    } as typeof CompressionStream;
    Object.defineProperty(Deno.FsFile.prototype, "readable", {
      get(this: Deno.FsFile) { // reads without waiting for the disk
        const pull = (controller: ReadableStreamDefaultController) => {
          const chunk = new Uint8Array(64 << 10);
          const length = this.readSync(chunk);
          if (length !== null) return controller.enqueue(chunk.subarray(0, length));
          this.close();
          controller.close();
        };
        return new ReadableStream({ pull });
      },
    });
    turn();
    const headers = { "accept-encoding": "gzip" };
    const responses = await Promise.all(Array.from({ length: 50 }, () => get(handler, "/big.txt", headers)));
    for (const { text } of responses) assertEquals(text.length, size);
  } finally {
    clearTimeout(timer);
    globalThis.CompressionStream = CompressionStream;
    Object.defineProperty(Deno.FsFile.prototype, "readable", readable);
  }
  assert(mostChunks > 0 && mostChunks <= 16, `${mostChunks} chunks in one turn`);
  assert(mostStarted <= 16, `${mostStarted} responses started in one turn`);
});

Deno.test({
  name: "handler() uses a precompressed file that appears later, until it is deleted",
  ignore: isOldDeno, // which has no zstd
  async fn(t) {
    const text = "original ".repeat(200);
    const files = { br: brotliCompressSync("br"), zstd: zstdCompressSync("zstd"), gzip: gzipSync("gzip") };
    const suffixes = { br: "br", zstd: "zst", gzip: "gz" };
    const rows = (["br", "zstd", "gzip"] as const).map((encoding) => ({ encoding }));
    await each(t, rows, ({ encoding }) => encoding, async ({ encoding }) => {
      await using site = await Site.lay({ "a.js": text, "big.js": text.repeat(1000) });
      let now = Date.now() + 60_000;
      const handler = createHandler({ root: site.root, now: () => now });
      const accept = encoding === "br" ? "br, zstd, gzip" : encoding;
      const without = encoding === "br" ? "zstd" : encoding; // what the server compresses with
      const sent = async () => {
        const { headers, text } = await getDecoded(handler, "/a.js", accept);
        assertEquals(headers.get("content-type"), "text/javascript; charset=UTF-8");
        return [headers.get("content-encoding"), text];
      };
      for (let round = 0; round < 2; round++) {
        for (let count = 0; count < 2; count++) assertEquals(await sent(), [without, text]);
        site.write({ [`a.js.${suffixes[encoding]}`]: new Uint8Array(files[encoding]) });
        now += 1001; // a missing file is not looked for again within a second
        for (let count = 0; count < 2; count++) assertEquals(await sent(), [encoding, encoding]);
        Deno.removeSync(site.file(`a.js.${suffixes[encoding]}`));
        for (let count = 0; count < 2; count++) assertEquals(await sent(), [without, text]); // at once
        now += 1001;
      }
    });
  },
});

Deno.test("handler() sends compressed responses with the same tag, weak, and without Accept-Ranges", async (t) => {
  const text = "some text that repeats itself; ".repeat(100);
  await using site = await Site.lay({
    "a.js": text,
    "big.log": text.repeat(1000),
    "pre.js": text,
    "pre.js.br": brotliCompressSync(text),
    "pre.js.gz": gzipSync(text),
    "folder/a.txt": "a",
    ...Object.fromEntries(Array.from({ length: 50 }, (_, index) => [`folder/${index}.txt`, ""])),
  });
  const handler = handlerFor({ root: site.root });
  const rows: [string, string][] = [["/a.js", "gzip"], ["/a.js", BEST], ["/big.log", "gzip"]];
  await each(t, rows, (row) => row.join(" "), async ([path, accept]) => {
    for (let count = 0; count < 2; count++) {
      const plain = await getDecoded(handler, path, "identity");
      const tag = plain.headers.get("etag")!;
      assertMatch(tag, /^"[!#-~]+"$/);
      assertEquals(plain.headers.get("accept-ranges"), "bytes");
      for (const method of ["GET", "HEAD"]) {
        const { status, headers } = await getDecoded(handler, path, accept, method);
        assertEquals([status, headers.get("content-encoding")], [200, accept]);
        assertEquals([headers.get("etag"), headers.get("accept-ranges")], [`W/${tag}`, null]);
        assertEquals(headers.get("last-modified"), plain.headers.get("last-modified"));
        // The tag of one encoding is as good as that of the other (weak comparison).
        for (const condition of [tag, `W/${tag}`, `"x", W/${tag}`]) {
          for (const encoding of [accept, "identity"]) {
            const requestHeaders = { "accept-encoding": encoding, "if-none-match": condition };
            const revalidated = await fetchFrom(handler, path, { method, headers: requestHeaders });
            assertEquals([revalidated.status, revalidated.text], [304, ""], `${condition} ${encoding}`);
            assertEquals(revalidated.headers.get("etag"), encoding === accept ? `W/${tag}` : tag);
            assertEquals(revalidated.headers.get("vary"), "Accept-Encoding");
          }
        }
      }
    }
  });
  await t.step("precompressed", async () => {
    const tags = new Set<string | null>();
    for (const accept of ["br", "gzip", "identity"]) {
      const { headers } = await getDecoded(handler, "/pre.js", accept);
      assertEquals(headers.get("accept-ranges"), accept === "identity" ? "bytes" : null, accept);
      tags.add(headers.get("etag"));
      assertMatch(headers.get("etag")!, /^"/);
    }
    assertEquals(tags.size, 3);
  });
  await t.step("a listing", async () => {
    const { headers } = await getDecoded(handler, "/folder/", "gzip");
    const names = ["content-encoding", "etag", "accept-ranges"];
    assertEquals(names.map((name) => headers.get(name)), ["gzip", null, null]);
  });
});

/** Counts how often the server compresses a whole body while a function runs. */
async function compressionsDuring(fn: () => Promise<unknown>): Promise<number> {
  const { getBuiltinModule } = process;
  const zlib = getBuiltinModule("node:zlib"); // frozen
  let count = 0;
  const counted: Partial<typeof zlib> = {
    gzipSync: (...args) => (count++, zlib.gzipSync(...args)),
    zstdCompressSync: (...args) => (count++, zlib.zstdCompressSync(...args)),
  };
  try {
    process.getBuiltinModule = ((name: string) =>
      name === "node:zlib" ? { ...zlib, ...counted } : getBuiltinModule(name)) as typeof getBuiltinModule;
    await fn();
  } finally {
    process.getBuiltinModule = getBuiltinModule;
  }
  return count;
}

Deno.test("handler() compresses a small file while streams wait for their turn", async () => {
  await using site = await Site.lay({ "big.txt": "a".repeat(2 << 20), "small.txt": "a".repeat(5000) });
  const handler = handlerFor({ root: site.root });
  await getDecoded(handler, "/small.txt", "identity");
  const { setTimeout } = globalThis;
  const held: (() => void)[] = [];
  const request = () => fetchFrom(handler, "/big.txt", { headers: { "accept-encoding": "gzip" } });
  let streams: Promise<unknown>[] = [];
  try {
    Object.assign(globalThis, { // streams wait for timers of 0 ms
      setTimeout: (fn: () => void, delay?: number) => delay === 0 ? held.push(fn) : setTimeout(fn, delay),
    });
    streams = Array.from({ length: 20 }, request);
    await until(() => held.length > 0, "a stream that waits");
    const { status } = await within(getDecoded(handler, "/small.txt", "gzip"), "the small file");
    assertEquals(status, 200);
  } finally {
    Object.assign(globalThis, { setTimeout });
    for (const fn of held) fn();
  }
  await Promise.all(streams);
});

Deno.test("handler() compresses each version of a file once", async (t) => {
  await each(t, ["gzip", BEST], (accept) => accept, async (accept) => {
    await using site = await Site.lay({ "a.txt": "" });
    const handler = handlerFor({ root: site.root });
    const request = async () => (await getDecoded(handler, "/a.txt", accept)).text;
    for (const text of ["one ".repeat(1000), "two, longer ".repeat(1000)]) {
      site.write({ "a.txt": text });
      const count = await compressionsDuring(async () => {
        const texts = await Promise.all(Array.from({ length: 50 }, request));
        assertEquals(new Set([...texts, await request()]), new Set([text]));
      });
      assertEquals(count, 1);
    }
  });
});

// Conditions ---------------------------------------------------------------------------------------------------------

Deno.test("evaluatePreconditions() follows the order of RFC 9110, 13.2.2", () => {
  const validators = new Headers({ "etag": 'W/"5-a"', "last-modified": MODIFIED });
  const cases: [Record<string, string>, number][] = [
    [{}, 200],
    [{ "if-none-match": 'W/"5-a"' }, 304],
    [{ "if-none-match": '"5-a"' }, 304],
    [{ "if-none-match": '"x", W/"5-a" , "y"' }, 304],
    [{ "if-none-match": '"x","5-a"' }, 304],
    [{ "if-none-match": "*" }, 304],
    [{ "if-none-match": '"5-b"' }, 200],
    [{ "if-none-match": '"5-ab"' }, 200],
    [{ "if-none-match": "5-a" }, 200],
    [{ "if-none-match": '"x"', "if-modified-since": LATER }, 200],
    [{ "if-none-match": '"5-a"', "if-modified-since": EARLIER }, 304],
    [{ "if-modified-since": MODIFIED }, 304],
    [{ "if-modified-since": LATER }, 304],
    [{ "if-modified-since": EARLIER }, 200],
    [{ "if-modified-since": "Sunday, 06-Nov-94 08:49:37 GMT" }, 304],
    [{ "if-modified-since": "Sun Nov  6 08:49:37 1994" }, 304],
    [{ "if-modified-since": "Sun Nov  6 08:49:36 1994" }, 200],
    [{ "if-modified-since": "yesterday" }, 200],
    [{ "if-modified-since": "99999" }, 200],
    [{ "if-modified-since": "2999-01-01" }, 200],
    [{ "if-modified-since": "" }, 200],
    [{ "if-match": "*" }, 200],
    [{ "if-match": 'W/"5-a"' }, 412],
    [{ "if-match": '"5-a"' }, 412],
    [{ "if-match": '"x"' }, 412],
    [{ "if-match": '"x"', "if-none-match": '"5-a"' }, 412],
    [{ "if-match": "*", "if-unmodified-since": EARLIER }, 200],
    [{ "if-match": "*", "if-none-match": '"5-a"' }, 304],
    [{ "if-unmodified-since": EARLIER }, 412],
    [{ "if-unmodified-since": MODIFIED }, 200],
    [{ "if-unmodified-since": LATER }, 200],
    [{ "if-unmodified-since": "yesterday" }, 200],
    [{ "if-unmodified-since": EARLIER, "if-none-match": '"5-a"' }, 412],
    [{ "if-unmodified-since": LATER, "if-none-match": '"5-a"' }, 304],
  ];
  for (const [headers, status] of cases) {
    assertEquals(evaluatePreconditions(new Headers(headers), validators), status, JSON.stringify(headers));
  }
  assertEquals(
    evaluatePreconditions(new Headers({ "if-modified-since": LATER, "if-none-match": '"x"' }), new Headers()),
    200,
  );

  // Dates are in UTC, regardless of the server's time zone, which Windows has no variable for.
  if (isWindows) return;
  const zone = Deno.env.get("TZ");
  try {
    Deno.env.set("TZ", "America/New_York");
    assertEquals(new Date(0).getHours(), 19, "the time zone did not change");
    const headers = new Headers({ "if-modified-since": "Sun Nov  6 08:49:36 1994" });
    assertEquals(evaluatePreconditions(headers, validators), 200);
  } finally {
    if (zone === undefined) Deno.env.delete("TZ");
    else Deno.env.set("TZ", zone);
  }
});

Deno.test("parseRange() accepts one byte range and ignores everything else", () => {
  const cases: [string | null, ReturnType<typeof parseRange>][] = [
    [null, undefined],
    ["bytes=0-9", { start: 0, end: 9 }],
    ["Bytes=0-0", { start: 0, end: 0 }],
    ["bytes=50-", { start: 50, end: 99 }],
    ["bytes=-5", { start: 95, end: 99 }],
    ["bytes=-500", { start: 0, end: 99 }],
    ["bytes=90-500", { start: 90, end: 99 }],
    [`bytes=0-${"9".repeat(40)}`, { start: 0, end: 99 }],
    ["bytes=99-", { start: 99, end: 99 }],
    ["bytes=100-", 416],
    ["bytes=100-200", 416],
    [`bytes=${"9".repeat(40)}-`, 416],
    ["bytes=-0", 416],
    ["bytes=5-2", undefined],
    ["bytes=500-200", undefined],
    ["bytes=-", undefined],
    ["bytes=", undefined],
    ["bytes", undefined],
    ["bytes=a-b", undefined],
    ["bytes= 0-9", undefined],
    ["bytes=0x0-9", undefined],
    ["bytes=0-9,20-29", undefined],
    ["bytes=0-9, 20-29", undefined],
    ["lines=0-9", undefined],
    ["megabytes=0-9", undefined],
    ["", undefined],
  ];
  for (const [header, range] of cases) assertEquals(parseRange(header, 100), range, String(header));
  for (const header of ["bytes=0-", "bytes=-5", "bytes=0-0", "bytes=-0"]) {
    assertEquals(parseRange(header, 0), undefined);
  }
});

Deno.test("handler() sends only the headers that a cache needs with a 304", async () => {
  await using site = await Site.lay({ "a.txt": "a" });
  const handler = handlerFor({ root: site.root, headers: [["X-Mine", "1"]], cors: true });
  const { headers } = await get(handler, "/a.txt");
  const [etag, modified] = [headers.get("etag")!, headers.get("last-modified")!];
  assertMatch(etag, /^"[!-~]+"$/);
  for (const [name, value] of [["if-none-match", etag], ["if-modified-since", modified]] as const) {
    const response = await get(handler, "/a.txt", { [name]: value });
    assertEquals([response.status, response.text], [304, ""]);
    assertEquals(Object.fromEntries(response.headers), {
      etag,
      "last-modified": modified,
      "cache-control": "no-cache",
      "vary": "Accept-Encoding",
      "x-content-type-options": "nosniff",
      "access-control-allow-origin": "*",
      "access-control-expose-headers": "*",
      "x-mine": "1",
    });
  }
});

Deno.test("handler() sends a different ETag for every version of a file", async () => {
  await using site = await Site.lay({ "a.txt": "one" });
  const file = site.file("a.txt");
  const handler = createHandler({ root: site.root }); // treats the file as new
  const time = new Date("2020-01-01");
  await Deno.utime(file, time, time);
  const etag = (await get(handler, "/a.txt")).headers.get("etag")!;
  assertEquals((await get(handler, "/a.txt")).headers.get("etag"), etag);

  // Same size and mtime, and the clock may have ticked only once.
  await Deno.writeTextFile(file, "ONE");
  await Deno.utime(file, time, time);
  const { status: overwritten, text: one } = await get(handler, "/a.txt", { "if-none-match": etag });
  assertEquals([overwritten, one], [200, "ONE"]);
  await Deno.writeTextFile(`${file}.new`, "two");
  await Deno.utime(`${file}.new`, time, time);
  await Deno.rename(`${file}.new`, file);
  const { status, text } = await get(handler, "/a.txt", { "if-none-match": etag });
  assertEquals([status, text], [200, "two"]);
});

Deno.test("handler() sends an ETag but no Last-Modified for an unusable modification time", async (t) => {
  await using site = await Site.lay({ "a.txt": "0123456789", "big.bin": new Uint8Array(2 << 20) });
  const handler = handlerFor({ root: site.root });
  const times = {
    "in the future": Date.now() + 1e9,
    ...isOldDeno ? {} : { "before 1970": -5000 }, // Deno 2.5 reports it as 5 s after 1970
    "in a distant century": Date.UTC(isLinux ? 2400 : 2200, 0),
  };
  await each(t, Object.entries(times), ([name]) => name, async ([, time]) => {
    for (const name of ["a.txt", "big.bin"]) {
      await Deno.utime(site.file(name), new Date(time), new Date(time));
      const { headers } = await fetchFrom(handler, `/${name}`, { method: "HEAD" });
      assertEquals(headers.get("last-modified"), null);
      const tag = { "if-none-match": headers.get("etag")! };
      assertEquals((await get(handler, `/${name}`, tag)).status, 304);
      for (const date of [LATER, new Date(time).toUTCString()]) {
        const request = (conditions: Record<string, string>) =>
          fetchFrom(handler, `/${name}`, { method: "HEAD", headers: conditions });
        assertEquals((await request({ "if-modified-since": date })).status, 200);
        assertEquals((await request({ "if-unmodified-since": EARLIER })).status, 200);
        const ranged = { range: "bytes=0-0", "if-range": date };
        assertEquals((await get(handler, `/${name}`, ranged)).status, 200);
      }
    }
  });
});

Deno.test("handler() sends no Last-Modified and no ambiguous ETag for a file that was just written", async () => {
  await using site = await Site.lay({ "a.txt": "0123456789", "big.bin": new Uint8Array(2 << 20) });
  const handler = createHandler({ root: site.root });
  const validatorsOf = async (path: string) => {
    const { headers } = await fetchFrom(handler, path, { method: "HEAD" });
    return [headers.has("etag"), headers.has("last-modified")];
  };
  assertEquals(await validatorsOf("/a.txt"), [true, false]); // the ETag is a hash of the bytes
  assertEquals(await validatorsOf("/big.bin"), [false, false]);
  const date = (await Deno.stat(site.file("a.txt"))).mtime!.toUTCString();
  for (const path of ["/a.txt", "/big.bin"]) {
    assertEquals((await get(handler, path, { range: "bytes=0-0", "if-range": date })).status, 200);
    assertEquals((await get(handler, path, { "if-modified-since": date })).status, 200);
  }
  const old = handlerFor({ root: site.root });
  for (const path of ["/a.txt", "/big.bin"]) {
    const { headers } = await fetchFrom(old, path, { method: "HEAD" });
    assertEquals([headers.has("etag"), headers.get("last-modified")], [true, date], path);
  }
});

Deno.test("handler() serves ranges as specified in RFC 9110, 14", async () => {
  const bytes = new Uint8Array(1000).map((_, index) => 97 + index % 26);
  const text = decoder.decode(bytes);
  await using site = await Site.lay({ "a.bin": bytes, "empty.txt": "", "utf8.txt": "é".repeat(100) });
  const handler = handlerFor({ root: site.root });
  for (
    const [range, start, end] of [
      ["bytes=0-9", 0, 9],
      ["bytes=500-", 500, 999],
      ["bytes=-5", 995, 999],
      ["bytes=-5000", 0, 999],
      ["bytes=990-5000", 990, 999],
      ["bytes=0-0", 0, 0],
      ["bytes=999-999", 999, 999],
    ] as const
  ) {
    const response = await get(handler, "/a.bin", { range, "accept-encoding": "gzip, br" });
    assertEquals([response.status, response.text], [206, text.slice(start, end + 1)], range);
    assertEquals(response.headers.get("content-range"), `bytes ${start}-${end}/1000`);
    assertEquals(response.headers.get("content-length"), `${end - start + 1}`);
    assertEquals(response.headers.get("content-encoding"), null);
    assertMatch(response.headers.get("etag")!, /^"/);
  }
  for (const range of ["bytes=1000-", "bytes=-0", "bytes=5000-6000"]) {
    const response = await get(handler, "/a.bin", { range, accept: "text/html" });
    assertEquals([response.status, response.text], [416, "416 Range Not Satisfiable\n"], range);
    assertEquals(response.headers.get("content-range"), "bytes */1000");
    assertEquals(response.headers.get("content-type"), "text/plain; charset=UTF-8");
  }
  for (const range of ["lines=0-9", "megabytes=0-9", "bytes=5-2", "bytes=0-9,20-29", "bytes=x"]) {
    const response = await get(handler, "/a.bin", { range });
    assertEquals([response.status, response.text, response.headers.get("content-range")], [200, text, null], range);
  }
  for (let count = 0; count < 2; count++) { // a range counts bytes, not characters
    const part = await handler(new Request("http://localhost/utf8.txt", { headers: { range: "bytes=1-2" } }));
    assertEquals([...await part.bytes()], [0xa9, 0xc3]);
  }
  const empty = await get(handler, "/empty.txt", { range: "bytes=0-9" });
  assertEquals([empty.status, empty.text, empty.headers.get("content-length")], [200, "", "0"]);
});

Deno.test("handler() serves a range with If-Range only for the current strong ETag or the exact Last-Modified date", async () => {
  await using site = await Site.lay({ "a.txt": "0123456789" });
  await Deno.utime(site.file("a.txt"), new Date(MODIFIED), new Date(Date.parse(MODIFIED) + 400));
  const handler = handlerFor({ root: site.root });
  const { headers } = await get(handler, "/a.txt");
  assertEquals(headers.get("last-modified"), MODIFIED);
  const cases: [string, number][] = [
    [MODIFIED, 206],
    [EARLIER, 200],
    [LATER, 200],
    [headers.get("etag")!, 206],
    [`W/${headers.get("etag")!}`, 200],
    ['"x"', 200],
    ["nonsense", 200],
    ["", 200],
  ];
  for (const [ifRange, status] of cases) {
    const response = await get(handler, "/a.txt", { range: "bytes=2-4", "if-range": ifRange });
    assertEquals([response.status, response.text], status === 206 ? [206, "234"] : [200, "0123456789"], ifRange);
  }
  assertEquals((await get(handler, "/a.txt", { "if-range": "nonsense", range: "bytes=99-" })).status, 200);
  assertEquals(
    (await get(handler, "/a.txt", { "if-none-match": headers.get("etag")!, range: "bytes=0-1" })).status,
    304,
  );
});

Deno.test("handler() serves a file with If-Match only for its current strong tag", async (t) => {
  const text = "some text that repeats itself; ".repeat(100);
  await using site = await Site.lay({ "a.txt": text, "big.txt": text.repeat(50) });
  for (const name of ["a.txt", "big.txt"]) {
    await Deno.utime(site.file(name), new Date("2024-01-01"), new Date("2024-01-01"));
  }
  const handler = handlerFor({ root: site.root, limits: SMALL_READS });
  for (const path of ["/a.txt", "/big.txt"]) {
    const whole = path === "/a.txt" ? text : text.repeat(50);
    const tag = (await fetchFrom(handler, path, { method: "HEAD" })).headers.get("etag")!;
    const compressed = await getDecoded(handler, path, "gzip");
    assertEquals(compressed.headers.get("etag"), `W/${tag}`);
    const cases: [string, boolean][] = [
      [tag, true],
      ["*", true],
      [`"x", ${tag}`, true],
      [`"x",${tag} , W/"y"`, true],
      [compressed.headers.get("etag")!.slice(2), true],
      [`W/${tag}`, false],
      [`"x", W/${tag}`, false],
      ['"x"', false],
      [tag.slice(1, -1), false],
      ["", false],
    ];
    await each(t, cases, ([condition]) => `${path} ${condition}`, async ([condition, isMatch]) => {
      for (const accept of ["identity", "gzip, br, zstd"]) {
        const headers = { "if-match": condition, "accept-encoding": accept };
        const full = await get(handler, path, headers);
        assertEquals(full.status, isMatch ? 200 : 412, accept);
        assert(isMatch ? full.text === whole : full.text === "412 Precondition Failed\n", accept);
        const part = await get(handler, path, { ...headers, range: "bytes=1000-1009" });
        assertEquals(part.status, isMatch ? 206 : 412, accept);
        if (isMatch) assertEquals(part.text, whole.slice(1000, 1010));
        const head = await fetchFrom(handler, path, { method: "HEAD", headers });
        assertEquals([head.status, head.text], [isMatch ? 200 : 412, ""]);
      }
    });
    // A match does not hide the other conditions.
    assertEquals((await get(handler, path, { "if-match": tag, "if-none-match": tag })).status, 304);
    assertEquals((await get(handler, path, { "if-match": tag, "if-unmodified-since": EARLIER })).status, 200);
    for (const [date, status] of [[EARLIER, 412], [new Date().toUTCString(), 200], ["yesterday", 200]] as const) {
      assertEquals((await get(handler, path, { "if-unmodified-since": date })).status, status, date);
    }
  }
});

Deno.test("handler() serves a range with If-Range and a date only if the client's part cannot be compressed", async (t) => {
  const text = "some text that repeats itself; ".repeat(100);
  await using site = await Site.lay({
    "a.js": text,
    "a.js.br": brotliCompressSync(text),
    "big.log": text.repeat(1000),
    "a.png": text,
    "small.txt": "0123456789".repeat(10),
  });
  for (const { name } of Deno.readDirSync(site.root)) {
    await Deno.utime(site.file(name), new Date(MODIFIED), new Date(MODIFIED));
  }
  const handler = handlerFor({ root: site.root });
  const plain = handlerFor({ root: site.root, compress: false });
  const [yes, no] = ["identity", null];
  const cases: [string, string, string, string | null][] = [ // the encoding of the whole file, or null for a 206
    ["/a.js", "br, gzip", MODIFIED, "br"],
    ["/a.js", "gzip", MODIFIED, "gzip"],
    ["/a.js", BEST, MODIFIED, BEST],
    ["/a.js", "identity", MODIFIED, no],
    ["/a.js", "", MODIFIED, no],
    ["/a.js", "gzip;q=0", MODIFIED, no],
    ["/big.log", "gzip", MODIFIED, "gzip"],
    ["/big.log", "br, zstd", MODIFIED, no], // big files are not compressed with these
    ["/a.png", "br, gzip", MODIFIED, no],
    ["/small.txt", "br, gzip", MODIFIED, no],
    ["/a.js", "identity", EARLIER, yes],
    ["/a.js", "identity", LATER, yes],
    ["/a.png", "gzip", EARLIER, yes],
  ];
  await each(t, cases, (row) => row.slice(0, 3).join(" "), async ([path, accept, date, encoding]) => {
    const whole = await Deno.readTextFile(site.file(path.slice(1)));
    for (let count = 0; count < 2; count++) {
      const headers = { range: "bytes=20-29", "if-range": date, "accept-encoding": accept };
      const response = await handler(new Request(`http://localhost${path}`, { headers }));
      const bytes = await response.bytes();
      assertEquals(response.status, encoding === null ? 206 : 200);
      assertEquals(response.headers.get("content-encoding"), encoding === "identity" ? null : encoding);
      assertEquals(response.headers.get("content-range"), encoding === null ? `bytes 20-29/${whole.length}` : null);
      const decode = { br: brotliDecompressSync, gzip: gunzipSync, zstd: zstdDecompressSync }[encoding ?? ""];
      const received = decoder.decode(decode === undefined ? bytes : decode(bytes));
      assert(received === (encoding === null ? whole.slice(20, 30) : whole), received.slice(0, 100));
    }
  });
  await t.step("a strong tag, which only the uncompressed file has", async () => {
    for (const path of ["/a.js", "/big.log"]) {
      const tag = (await fetchFrom(handler, path, { method: "HEAD" })).headers.get("etag")!;
      const headers = { range: "bytes=20-29", "accept-encoding": "gzip, br" };
      const response = await get(handler, path, { ...headers, "if-range": tag });
      assertEquals([response.status, response.text], [206, text.slice(20, 30)], path);
      assertEquals((await get(handler, path, { ...headers, "if-range": `W/${tag}` })).status, 200, path);
      assertEquals((await get(handler, path, headers)).text, text.slice(20, 30), path);
    }
  });
  await t.step("a server that does not compress", async () => {
    const headers = { range: "bytes=20-29", "if-range": MODIFIED, "accept-encoding": "gzip" };
    const { status, text: part } = await get(plain, "/a.js", headers);
    assertEquals([status, part], [206, text.slice(20, 30)]);
  });
});

// Listing ------------------------------------------------------------------------------------------------------------

Deno.test("handler() lists only entries that can be opened", async () => {
  await using outside = await Site.lay({ "secret.txt": "SECRET" });
  await using site = await Site.lay({
    ".hidden/a.txt": "a",
    ".env": "SECRET",
    "a.txt": "a",
    "folder/b.txt": "b",
    "hidden": { link: ".hidden" },
    "link": { link: "folder" },
    "link.txt": { link: "a.txt" },
    "out": { link: outside.root },
    "secret.txt": { link: outside.file("secret.txt") },
    "dangling": { link: "nothing" },
    "loop": { link: "loop" },
  });
  if (!isWindows) {
    site.write({ "back\\slash.txt": "x" });
    const notUtf8 = isLinux ? ' && : > "$(printf "x\\377")"' : ""; // macOS refuses such names
    const { success } = await new Deno.Command("sh", { args: ["-c", `mkfifo fifo${notUtf8}`], cwd: site.root })
      .output();
    assert(success);
  }
  const handler = handlerFor({ root: site.root });
  const inside = HAS_LINKS ? ["folder/", "hidden/", "link/", "a.txt", "link.txt"] : ["folder/", "a.txt"];
  assertEquals(namesIn((await get(handler, "/")).text), inside);
  for (const name of inside) assertEquals((await get(handler, `/${name}`)).status, 200, name);
  if (!HAS_LINKS) return;
  assertEquals(namesIn((await get(handler, "/hidden/")).text), ["a.txt"]);
  assertEquals(namesIn((await get(handler, "/link/")).text), ["b.txt"]);
  const following = handlerFor({ root: site.root, symlinks: true });
  assertEquals(namesIn((await get(following, "/")).text), [
    ...["folder/", "hidden/", "link/", "out/", "a.txt", "link.txt", "secret.txt"],
  ]);
  assertEquals(namesIn((await get(following, "/out/")).text), ["secret.txt"]);
});

Deno.test("handler() lists folders first, in natural order or sorted by `?sort=`, and filters by `?q=`", async (t) => {
  const sizes = { "b/x": 1, "A/x": 1, "file10.txt": 20, "file9.txt": 30, "File1.TXT": 10, "éa.txt": 5 };
  await using site = await Site.lay(
    Object.fromEntries(Object.entries(sizes).map(([name, size]) => [name, "x".repeat(size)])),
  );
  for (const [index, name] of ["A", "file9.txt", "b", "File1.TXT", "éa.txt", "file10.txt"].entries()) {
    await Deno.utime(site.file(name), index * 1000, index * 1000);
  }
  const handler = handlerFor({ root: site.root });
  const byName = ["A/", "b/", "éa.txt", "File1.TXT", "file9.txt", "file10.txt"];
  const cases: [string, string[]][] = [
    ["", byName],
    ["?sort=name", byName],
    ["?sort=nonsense&x=y", byName],
    ["?sort=toString", byName],
    ["?sort=size", ["A/", "b/", "file9.txt", "file10.txt", "File1.TXT", "éa.txt"]],
    ["?sort=time", ["b/", "A/", "file10.txt", "éa.txt", "File1.TXT", "file9.txt"]],
    ["?q=FILE", ["File1.TXT", "file9.txt", "file10.txt"]],
    ["?q=file1&sort=size", ["file10.txt", "File1.TXT"]],
    ["?q=9", ["file9.txt"]],
    ["?q=%C3%89", ["éa.txt"]],
    ["?q=nothing", []],
    ["?q=%ff&sort=%", []],
  ];
  await each(t, cases, ([query]) => query, async ([query, names]) => {
    const { status, text } = await get(handler, `/${query}`);
    assertEquals([status, namesIn(text)], [200, names]);
    const json = JSON.parse((await get(handler, `/${query}`, { accept: "application/json" })).text);
    assertEquals(json.map(({ name, type }: Record<string, string>) => type === "file" ? name : `${name}/`), names);
  });
});

Deno.test("handler() filters by name whether accents are composed or not", async () => {
  const [composed, decomposed] = ["é", "e\u0301"];
  await using site = await Site.lay({ [`caf${composed}.txt`]: "", [`caf${decomposed} noir.txt`]: "", "cafe.txt": "" });
  const handler = handlerFor({ root: site.root });
  for (const letter of [composed, decomposed, "É", "E\u0301"]) {
    const { text } = await get(handler, `/?q=${encodeURIComponent(`f${letter}`)}`);
    assertEquals(namesIn(text).map((name) => name.normalize("NFC")), ["café noir.txt", "café.txt"], letter);
  }
});

Deno.test("handler() lists human-readable sizes and dates, and links that keep the sort order and filter", async () => {
  // Windows forbids angle brackets in names.
  const [picture, url, html] = isWindows
    ? ["{b}.PNG", "%7Bb%7D.PNG", "{b}.PNG"]
    : ["<b>.PNG", "%3Cb%3E.PNG", "&#60;b&#62;.PNG"];
  await using site = await Site.lay({ "sub dir/a&b/f.bin": new Uint8Array(12_345), [`sub dir/a&b/${picture}`]: "x" });
  const time = new Date(2020, 1, 29, 13, 45, 10);
  await Deno.utime(site.file("sub dir/a&b/f.bin"), time, time);
  const handler = handlerFor({ root: site.root });
  const { text, headers } = await get(handler, "/sub%20dir/a&b/?sort=size&q=%22f%3C");
  assertEquals(headers.get("content-length"), `${encoder.encode(text).length}`);
  assertStringIncludes(text, 'value="&#34;f&#60;"');
  assertStringIncludes(text, '<th aria-sort="descending"><a href="?sort=size&#38;order=asc&#38;q=%22f%3C">Size</a>');
  assertStringIncludes(text, '<th><a href="?sort=name&#38;order=asc&#38;q=%22f%3C">Name</a>');

  const all = (await get(handler, "/sub%20dir/a&b/")).text;
  assertStringIncludes(all, "<title>a&#38;b</title>");
  const root = `<a href="../../"><bdi>${basename(site.root)}</bdi></a>`;
  assertStringIncludes(all, `<h1>${root} / <a href="../"><bdi>sub dir</bdi></a> / <bdi>a&#38;b</bdi></h1>`);
  const row = '<tr><td><a href="f.bin"><bdi>f.bin</bdi></a><td>12.3 kB<td>2020-02-29 13:45\n';
  assertStringIncludes(all, row);
  assert(row.length < 120, "the row is too long");
  assertStringIncludes(all, '<p><span role="status">2 files, 12.3 kB</span>');
  assertStringIncludes(all, '<a href="../" rel="up" aria-label="Parent folder">');
  assertStringIncludes(all, '<a href="?sort=name&#38;order=asc&#38;view=grid">Grid</a>');
  assertStringIncludes(all, `<tr class=picture><td><a href="${url}"><bdi>${html}</bdi></a><td>1 B<td>`);
  assert(!/<img|<video/.test(all), "the list has previews");
  const top = (await get(handler, "/")).text;
  assertStringIncludes(top, '<tr class=folder><td><a href="sub%20dir/"><bdi>sub dir</bdi></a><td><td>');
  assert(!top.includes('rel="up"'), "the root has a parent");
});

Deno.test("handler() shows previews in the grid, which stays on", async () => {
  await using site = await Site.lay({
    "a/b/c/x": "",
    "a/b/p q.JPG": "",
    "a/b/v.mp4": "",
    "a/b/s.mp3": "",
    "a/b/n": "",
  });
  const handler = handlerFor({ root: site.root });
  const { text } = await get(handler, "/a/b/?view=grid&sort=size&order=asc&q=");
  assertEquals(linksIn(text), ["c/?view=grid", "n", "p q.JPG".replace(" ", "%20"), "s.mp3", "v.mp4"]);
  assertEquals([...text.matchAll(/<a href="(\.\.\/[^"]*)"/g)].map(([, href]) => href), [
    ...["../?view=grid", "../../?view=grid", "../?view=grid"],
  ]);
  for (const name of ["Name", "Size", "Modified"]) {
    assertMatch(text, new RegExp(`<a href="\\?[^"]*view=grid">${name}</a>`));
  }
  assertStringIncludes(text, '<input type="hidden" name="view" value="grid">');
  assertStringIncludes(text, '<a href="?sort=size&#38;order=asc">List</a>');
  const date = "\\d{4}-\\d\\d-\\d\\d\n";
  const empty = "<td>0 B<td>";
  for (
    const row of [
      '<tr class=folder><td><a href="c/?view=grid"><bdi>c</bdi></a><td><td>',
      `<tr><td><a href="n"><bdi>n</bdi></a>${empty}`,
      `<tr class=picture><td><a href="p%20q.JPG"><img loading="lazy" src="p%20q.JPG" alt=""><bdi>p q.JPG</bdi></a>${empty}`,
      `<tr class=sound><td><a href="s.mp3"><bdi>s.mp3</bdi></a>${empty}`,
      '<tr class=video><td><a href="v.mp4"><video preload="metadata" muted src="v.mp4#t=.001"></video><bdi>v.mp4</bdi></a>',
    ]
  ) assertMatch(text, new RegExp(row.replace(/[.?]/g, "\\$&") + (row.includes("video") ? "" : date)));
});

Deno.test("handler() counts folders and files, and says what a listing without rows means", async (t) => {
  await using site = await Site.lay({
    ...{ "empty": null, "both/a/x": "", "both/b/x": "", "both/f.txt": "1234", "folders/a/x": "" },
    ...{ "file/f.txt": "", "files/f.txt": "12", "files/g.txt": "1" },
  });
  const handler = handlerFor({ root: site.root });
  const cases: [string, string][] = [
    ["/both/", "2 folders, 1 file, 4 B"],
    ["/folders/", "1 folder"],
    ["/file/", "1 file, 0 B"],
    ["/files/", "2 files, 3 B"],
    ["/files/?q=g", "1 file, 1 B"],
    ["/files/?q=%3Cx", "No names contain \u201c<bdi>&#60;x</bdi>\u201d."],
    ["/empty/?q=x", "No names contain \u201c<bdi>x</bdi>\u201d."],
    ["/empty/", "This folder is empty."],
  ];
  await each(t, cases, ([path]) => path, async ([path, summary]) => {
    const { text } = await get(handler, path);
    assertStringIncludes(text, `<span role="status">${summary}</span>`);
    const isFiltered = path.includes("q=");
    assertStringIncludes(text, `<a href="?sort=name&#38;order=asc"${isFiltered ? "" : " hidden"}>Show all</a>`);
    assertEquals(text.includes("<form>"), path !== "/empty/");
  });
});

Deno.test("handler() isolates bidirectional controls in names", async () => {
  const name = "invoice\u202efdp.exe";
  await using site = await Site.lay({ [`${name}/a\u2067b\u200f.txt`]: "" });
  const handler = handlerFor({ root: site.root });
  const control = (code: string) => `<bdi title="U+${code}">${String.fromCharCode(parseInt(code, 16))}</bdi>`;
  assertStringIncludes((await get(handler, "/")).text, `<bdi>invoice${control("202E")}fdp.exe</bdi></a>`);
  const { text } = await get(handler, `/${encodeURIComponent(name)}/`);
  assertStringIncludes(text, `/ <bdi>invoice${control("202E")}fdp.exe</bdi></h1>`);
  assertStringIncludes(text, `<bdi>a${control("2067")}b${control("200F")}.txt</bdi></a>`);
});

Deno.test({
  name: "handler() lists a file with an out-of-range modification time",
  ignore: !isLinux || !exists("/dev/shm"), // the temporary folder may not support such times
  async fn() {
    const root = await Deno.makeTempDir({ dir: "/dev/shm" });
    try {
      await Deno.writeTextFile(join(root, "a.txt"), "a");
      await Deno.utime(join(root, "a.txt"), 1e13, 1e13);
      assertEquals((await Deno.stat(join(root, "a.txt"))).mtime?.getTime(), NaN);
      const handler = handlerFor({ root });
      for (const sort of ["name", "time"]) {
        assertEquals(namesIn((await get(handler, `/?sort=${sort}`)).text), ["a.txt"]);
      }
      const [item] = JSON.parse((await get(handler, "/", { accept: "application/json" })).text);
      assertEquals(item.mtime, "Thu, 01 Jan 1970 00:00:00 GMT");
    } finally {
      await removeFolder(root);
    }
  },
});

Deno.test("handler() lists in nginx's JSON format for clients that prefer JSON", async (t) => {
  const file = isWindows ? "a\u2028.txt" : 'a"\u2028.txt'; // Windows forbids quotes
  await using site = await Site.lay({ "sub/x": "x", [file]: "hello" });
  for (const name of ["sub", file]) await Deno.utime(site.file(name), new Date(MODIFIED), new Date(MODIFIED));
  const handler = handlerFor({ root: site.root });
  const cases: [string | undefined, boolean][] = [
    [undefined, false],
    ["*/*", false],
    ["text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,*/*;q=0.8", false],
    ["application/json", true],
    ["application/json, text/plain, */*", true],
    ["text/html;q=0.5, application/json", true],
    ["application/json;q=0", false],
    ["nonsense", false],
    ["", false],
  ];
  await each(t, cases, ([accept]) => accept, async ([accept, isJson]) => {
    const { status, headers, text } = await get(handler, "/", accept === undefined ? {} : { accept });
    assertEquals([status, headers.get("vary")], [200, "Accept, Accept-Encoding"]);
    assertEquals(headers.get("content-type"), `${isJson ? "application/json" : "text/html"}; charset=UTF-8`);
    if (!isJson) return assertEquals(namesIn(text), ["sub/", file]);
    assertEquals(JSON.parse(text), [
      { name: "sub", type: "directory", mtime: MODIFIED },
      { name: file, type: "file", mtime: MODIFIED, size: 5 },
    ]);
  });
  await using empty = await Site.lay({});
  assertEquals((await get(handlerFor({ root: empty.root }), "/", { accept: "application/json" })).text, "[\n]\n");
});

Deno.test("handler() compresses listings of any size", async (t) => {
  const names = (count: number) => Array.from({ length: count }, (_, index) => `file${index}.txt`);
  const tree = (count: number) => Object.fromEntries(names(count).map((name) => [name, ""]));
  await using small = await Site.lay(tree(200));
  await using round = await Site.lay(tree(500));
  await using big = await Site.lay(tree(600));
  const sizes = [{ site: small, count: 200 }, { site: round, count: 500 }, { site: big, count: 600 }];
  const cases = [BEST, "gzip", "br", ""].flatMap((accept) => sizes.map((size) => ({ accept, ...size })));
  await each(t, cases, ({ accept, count }) => `${accept} ${count}`, async ({ accept, site, count }) => {
    const handler = handlerFor({ root: site.root });
    const { status, headers, text } = await getDecoded(handler, "/", accept);
    assertEquals([status, namesIn(text)], [200, names(count)]);
    assertEquals(headers.get("content-encoding"), accept === "br" || accept === "" ? null : accept);
    assert(headers.has("content-length"));
    const head = await getDecoded(handler, "/", accept, "HEAD");
    assertEquals([head.status, head.text, [...head.headers]], [200, "", [...headers]]);
    const json = await handler(new Request("http://localhost/", { headers: { accept: "application/json" } }));
    assertEquals((await json.json()).length, count);
    const plain = await getDecoded(handlerFor({ root: site.root, compress: false }), "/", accept);
    assertEquals([plain.headers.get("content-encoding"), plain.headers.get("vary")], [null, "Accept"]);
  });
});

Deno.test("handler() shares a listing among simultaneous requests and reads the folder again for the next one", async () => {
  await using site = await Site.lay(Object.fromEntries(Array.from({ length: 600 }, (_, index) => [`${index}`, ""])));
  const handler = handlerFor({ root: site.root });
  const { statSync } = Deno;
  let count = 0;
  try {
    Deno.statSync = (path) => (count += path.toString().startsWith(site.root) ? 1 : 0, statSync(path));
    const responses = await Promise.all(Array.from({ length: 50 }, () => get(handler, "/")));
    assertEquals(new Set(responses.map(({ text }) => text)).size, 1);
    assert(count >= 600 && count < 1000, `${count} files were read for 50 requests`);
  } finally {
    Deno.statSync = statSync;
  }
  site.write({ "new.txt": "" });
  assert(namesIn((await get(handler, "/")).text).includes("new.txt"));
  site.write({ "new.txt": "12345" }); // this changes neither a name nor the time of the folder
  assertStringIncludes((await get(handler, "/")).text, "<bdi>new.txt</bdi></a><td>5 B<td>");
});

Deno.test("handler() compresses a listing again only if it changed", async () => {
  await using site = await Site.lay(Object.fromEntries(Array.from({ length: 600 }, (_, index) => [`${index}`, ""])));
  const handler = handlerFor({ root: site.root });
  const texts = new Set<string>();
  const list = async () => {
    const { headers, text } = await getDecoded(handler, "/", "gzip");
    assertEquals(headers.get("content-encoding"), "gzip");
    texts.add(text);
  };
  assertEquals(
    await compressionsDuring(async () => {
      const init = { headers: { "accept-encoding": "gzip", "range": "bytes=0-9" } };
      assertEquals((await fetchFrom(handler, "/", init)).headers.get("content-encoding"), "gzip"); // there are no ranges
      for (let count = 0; count < 3; count++) await list();
      site.write({ "9": "changed" });
      for (let count = 0; count < 3; count++) await list();
    }),
    2,
  );
  assertEquals(texts.size, 2);
});

Deno.test("handler() responds to others while it lists a big folder", async () => {
  await using site = await Site.lay(Object.fromEntries(Array.from({ length: 1500 }, (_, index) => [`${index}`, ""])));
  const handler = createHandler({ root: site.root });
  await get(handler, "/0"); // later requests know the type of such files
  const order: string[] = [];
  const { statSync } = Deno;
  const request = (path: string) => handler(new Request(`http://localhost${path}`)).then(() => order.push(path));
  let other: Promise<unknown> | undefined;
  try {
    Deno.statSync = (path) => { // the listing has begun
      if (dirname(`${path}`) === site.root) {
        Deno.statSync = statSync;
        other = new Promise((resolve) => setTimeout(resolve)).then(() => request("/1")); // as one from the network
      }
      return statSync(path);
    };
    await request("/");
    await other;
  } finally {
    Deno.statSync = statSync;
  }
  assertEquals(order, ["/1", "/"]);
});

Deno.test("handler() serves files with unusual names and links to each in the listing", async () => {
  await using site = await Site.lay(Object.fromEntries(ODD_NAMES.map((name) => [`sub/${name}`, name])));
  const handler = handlerFor({ root: site.root });
  for (const name of ODD_NAMES) {
    const { status, text } = await get(handler, `/sub/${encodeURIComponent(name)}`);
    assertEquals([status, text], [200, name]);
  }
  const listing = (await get(handler, "/sub/")).text;
  assert(!listing.includes("<script>alert"), "a name is not escaped");
  const opened = [];
  for (const link of linksIn(listing)) {
    opened.push((await get(handler, new URL(link, "http://localhost/sub/").pathname)).text);
  }
  assertEquals(opened.sort(), [...ODD_NAMES].sort());
});

Deno.test("handler() orders a listing by `?order=`", async (t) => {
  const sizes = { "b/x": 1, "A/x": 1, "file10.txt": 20, "file9.txt": 30, "File1.TXT": 10, "same.txt": 10 };
  await using site = await Site.lay(
    Object.fromEntries(Object.entries(sizes).map(([name, size]) => [name, "x".repeat(size)])),
  );
  for (const [index, name] of ["A", "file9.txt", "b", "File1.TXT", "same.txt", "file10.txt"].entries()) {
    await Deno.utime(site.file(name), index * 1000, index * 1000);
  }
  const handler = handlerFor({ root: site.root });
  const cases: [string, string[]][] = [
    ["?order=asc", ["A/", "b/", "File1.TXT", "file9.txt", "file10.txt", "same.txt"]],
    ["?order=desc", ["b/", "A/", "same.txt", "file10.txt", "file9.txt", "File1.TXT"]],
    ["?sort=name&order=desc", ["b/", "A/", "same.txt", "file10.txt", "file9.txt", "File1.TXT"]],
    ["?sort=size&order=asc", ["A/", "b/", "File1.TXT", "same.txt", "file10.txt", "file9.txt"]],
    ["?sort=size&order=desc", ["A/", "b/", "file9.txt", "file10.txt", "File1.TXT", "same.txt"]],
    ["?sort=time&order=asc", ["A/", "b/", "file9.txt", "File1.TXT", "same.txt", "file10.txt"]],
    ["?sort=time&order=desc", ["b/", "A/", "file10.txt", "same.txt", "File1.TXT", "file9.txt"]],
    ["?sort=time&order=sideways", ["b/", "A/", "file10.txt", "same.txt", "File1.TXT", "file9.txt"]],
    ["?order=desc&q=file", ["file10.txt", "file9.txt", "File1.TXT"]],
  ];
  await each(t, cases, ([query]) => query, async ([query, names]) => {
    const { text } = await get(handler, `/${query}`);
    assertEquals(namesIn(text), names);
    const json: { name: string; type: string }[] =
      await (await handler(new Request(`http://localhost/${query}`, { headers: { accept: "application/json" } })))
        .json();
    assertEquals(json.map(({ name, type }) => type === "file" ? name : `${name}/`), names);
  });
  const { text } = await get(handler, "/?sort=size&order=asc");
  assertStringIncludes(text, '<th aria-sort="ascending"><a href="?sort=size&#38;order=desc">Size</a>');
  assertStringIncludes(text, '<input type="hidden" name="order" value="asc">');
});

Deno.test("handler() uses the first 1,024 characters of a filter", async (t) => {
  const long = "n".repeat(200);
  await using site = await Site.lay({ "a.txt": "a", [long]: "n" });
  const handler = handlerFor({ root: site.root });
  const { normalize } = String.prototype;
  const longestFilter = async (filter: string) => {
    let longest = 0;
    try {
      String.prototype.normalize = function (form) {
        longest = Math.max(longest, this.length);
        return normalize.call(this, form);
      };
      const { status, text } = await get(handler, `/?q=${encodeURIComponent(filter)}&sort=size`);
      assertEquals(status, 200);
      const [, value = ""] = /name="q" value="([^"]*)"/.exec(text) ?? [];
      const links = [...text.matchAll(/href="(\?[^"]*)">(?!Show all)/g)]
        .map(([, query]) => new URLSearchParams(unescapeHtml(query!)).get("q") ?? "");
      assert(links.length > 0, text);
      return { longest, value: unescapeHtml(value), links, text };
    } finally {
      String.prototype.normalize = normalize;
    }
  };
  const attacks = {
    // Normalization sorts combining marks in quadratic time.
    "combining marks": "\u0300".repeat(16_000) + "\u0316".repeat(16_000),
    "letters": "x".repeat(32_000),
    "quotes": '"&<>'.repeat(8000),
  };
  await each(t, Object.entries(attacks), ([name]) => name, async ([, filter]) => {
    const { longest, value, links, text } = await longestFilter(filter);
    const cut = filter.slice(0, 1024);
    assert(longest <= 1024, `${longest} characters were normalized`);
    assertEquals([value, ...new Set(links)], [cut, cut]);
    assertEquals(namesIn(text), []);
  });
  await t.step("1,024 and more characters", async () => {
    for (const [length, cutLength] of [[1023, 1023], [1024, 1024], [1025, 1024]] as const) {
      assertEquals((await longestFilter("y".repeat(length))).value.length, cutLength);
    }
    assertEquals(namesIn((await get(handler, `/?q=${long}`)).text), [long]);
  });
});

/** Returns the text of the links in a listing, as an HTML parser would. */
function linkTextsIn(listing: string): string[] {
  return [...listing.matchAll(/<tr[^>]*><td><a href="[^"]*">(.*?)<\/a>/gs)].map(([, html]) => {
    const parsed = html!.replace(/<[^>]*>/g, "").replace(/\r\n?/g, "\n"); // normalized before character references are resolved
    assert(!/&(?!#\d+;)/.test(parsed), `an ampersand is not escaped: ${parsed}`);
    return unescapeHtml(parsed);
  });
}

Deno.test("handler() shows exactly the name of a file or folder as the text of its link", async () => {
  const printable = Array.from({ length: 95 }, (_, index) => String.fromCharCode(32 + index))
    .filter((character) => character !== "/" && character !== "\\"); // no URL has a backslash
  const names = [
    ...printable.map((character) => `a${character}b`),
    ...[printable.slice(0, 47), printable.slice(47)].map((characters) => characters.join("")),
    " leading",
    "trailing ",
    "  both  and  inside  ",
    " ",
    "tab\there",
    "line\nfeed",
    "carriage\rreturn",
    "both\r\nends\r",
    '"quoted"',
    "'single'",
    "&amp;",
    "&#65;&lt;",
    "<b>bold</b>".replace("/", "-"),
    "</bdi>".replace("/", "-"),
    "a:b",
    "javascript:alert(1)",
    "?query",
    "#hash",
    "%41",
    "é\u0301",
    "\u202eright to left",
    "\ufeffmark",
    "emoji 😀",
    "日本語",
    ...[...printable].filter((character) => character !== ".").map((character) => character.repeat(2)),
  ];
  const possible = names.filter((name) => !isWindows || !/[<>:"|?*\t\n\r]|[ .]$/.test(name));
  // On macOS and Windows, names that differ only in case are the same.
  const unique = isLinux
    ? [...new Set(possible)]
    : [...new Map(possible.map((name) => [name.toLowerCase(), name])).values()];
  assert(unique.length >= 100);
  await using site = await Site.lay(Object.fromEntries(unique.flatMap((name) => [
    [`files/${name}`, `=${name}`],
    [`folders/${name}/inside.txt`, `=${name}`],
  ])));
  const handler = handlerFor({ root: site.root });
  for (const folder of ["files", "folders"]) {
    const listing = (await get(handler, `/${folder}/`)).text;
    const texts = linkTextsIn(listing);
    assertEquals(new Set(texts), new Set(unique));
    assertEquals(texts.length, unique.length);
    // Each link leads to what its text names.
    for (const [index, link] of linksIn(listing).entries()) {
      const { pathname, origin } = new URL(link, `http://localhost/${folder}/`);
      assertEquals(origin, "http://localhost");
      const { text } = await get(handler, folder === "files" ? pathname : `${pathname}inside.txt`);
      assertEquals(text, `=${texts[index]}`);
    }
  }
  for (const name of unique) { // the title and the heading contain the name, too
    const { text } = await get(handler, `/folders/${encodeURIComponent(name)}/`);
    const [, title = ""] = /<title>([^<]*)<\/title>/.exec(text) ?? [];
    const [, heading = ""] = /<h1>.* \/ <bdi>(.*)<\/bdi><\/h1>/s.exec(text) ?? [];
    assertEquals([unescapeHtml(title), unescapeHtml(heading.replace(/<[^>]*>/g, ""))], [name, name]);
  }
});

Deno.test("handler() applies conditions to a listing", async (t) => {
  await using site = await Site.lay({ "a.txt": "a", "sub/x": "x" });
  const handler = handlerFor({ root: site.root, maxAge: 60, cors: true, headers: [["X-Mine", "1"]] });
  const cases: [Record<string, string>, number][] = [
    [{ "if-none-match": "*" }, 304],
    [{ "if-none-match": "*", accept: "application/json" }, 304],
    [{ "if-none-match": "*", "accept-encoding": "gzip" }, 304],
    [{ "if-none-match": '"x"' }, 200],
    [{ "if-modified-since": LATER }, 200],
    [{ "if-match": "*" }, 200],
    [{ "if-match": '"x"' }, 412],
    [{ range: "bytes=0-9" }, 200],
    [{ range: "bytes=99999999-" }, 200],
  ];
  await each(t, cases, ([headers]) => JSON.stringify(headers), async ([headers, status]) => {
    for (const path of ["/", "/sub/", "/?sort=size"]) {
      for (const method of ["GET", "HEAD"]) {
        const response = await fetchFrom(handler, path, { method, headers });
        assertEquals(response.status, status);
        if (status !== 304) continue;
        assertEquals([response.text, Object.fromEntries(response.headers)], ["", {
          "cache-control": "no-cache",
          "vary": "Accept, Accept-Encoding",
          "x-content-type-options": "nosniff",
          "access-control-allow-origin": "*",
          "access-control-expose-headers": "*",
          "x-mine": "1",
        }]);
      }
    }
  });
});

Deno.test("handler() lists no date for a time that no calendar has", async (t) => {
  await using site = await Site.lay({ "a.txt": "a", "b.txt": "b", "sub/x": "x" });
  const zone = Deno.env.get("TZ");
  const { statSync } = Deno;
  const cases: [number, RegExp][] = [
    [Date.UTC(2020, 1, 29, 12), /^2020-0(2-29|3-01) \d\d:\d\d$/],
    [1000, /^(1970-01-01|1969-12-31) \d\d:\d\d$/],
    [Date.UTC(9999, 11, 30), /^9999-12-(29|30) \d\d:\d\d$/],
    [Date.UTC(10_000, 0, 5), /^$/],
    [8.64e15, /^$/], // the last time that a Date can express
    [-8.64e15, /^$/],
    [NaN, /^$/], // as Deno reports times beyond that
  ];
  try {
    // Windows has no variable for the time zone.
    for (const timeZone of ["UTC", ...isWindows ? [] : ["America/New_York", "Asia/Tokyo", "Pacific/Kiritimati"]]) {
      Deno.env.set("TZ", timeZone);
      await each(t, cases, ([time]) => `${time} ${timeZone}`, async ([time, date]) => {
        try {
          Deno.statSync = (path) => {
            const info = statSync(path);
            return ["a.txt", "sub"].includes(basename(`${path}`)) ? { ...info, mtime: new Date(time) } : info;
          };
          const handler = handlerFor({ root: site.root });
          for (const query of ["", "?sort=time", "?sort=time&order=asc"]) {
            const { status, text } = await get(handler, `/${query}`);
            assertEquals([status, namesIn(text).sort()], [200, ["a.txt", "b.txt", "sub/"]]);
            for (const name of ["a.txt", "sub"]) {
              const [, shown] = new RegExp(`<bdi>${name}</bdi></a><td[^>]*>[^<]*<td>(.*)\n`).exec(text) ?? fail(text);
              assertMatch(shown!, date);
            }
          }
          const json = await get(handler, "/", { accept: "application/json" });
          assertEquals([json.status, JSON.parse(json.text).length], [200, 3]);
        } finally {
          Deno.statSync = statSync;
        }
      });
    }
  } finally {
    if (zone === undefined) Deno.env.delete("TZ");
    else Deno.env.set("TZ", zone);
  }
});

Deno.test("handler() builds one body for simultaneous requests of a listing", async (t) => {
  await using site = await Site.lay(Object.fromEntries(Array.from({ length: 600 }, (_, index) => [`${index}`, ""])));
  const { encode } = TextEncoder.prototype;
  const rows: Record<string, string>[] = [{}, { "accept-encoding": BEST }, { "accept-encoding": "gzip" }];
  rows.push({ accept: "application/json" }, { accept: "application/json", "accept-encoding": "gzip" });
  await each(t, rows, (headers) => JSON.stringify(headers), async (headers) => {
    const handler = handlerFor({ root: site.root });
    let encoded = 0;
    try {
      TextEncoder.prototype.encode = function (text = "") {
        encoded += Number(text.includes("599"));
        return encode.call(this, text);
      };
      const request = () => handler(new Request("http://localhost/", { headers }));
      const compressed = await compressionsDuring(async () => {
        const responses = await Promise.all(Array.from({ length: 60 }, request));
        const bodies = await Promise.all(responses.map((response) => response.bytes()));
        for (const body of bodies) assertEquals(indexOfDifference(body, bodies[0]!), -1);
      });
      assertEquals([encoded, compressed], [1, "accept-encoding" in headers ? 1 : 0]);
    } finally {
      TextEncoder.prototype.encode = encode;
    }
  });
  await t.step("views and encodings that differ", async () => {
    const handler = handlerFor({ root: site.root });
    const paths = ["/", "/?sort=size", "/?q=1", "/?order=desc", "/?view=grid"];
    const accepts = ["text/html", "application/json"];
    const requests = paths.flatMap((path) => accepts.map((accept) => [path, accept] as const));
    const texts = await Promise.all(
      requests.map(async ([path, accept]) => (await get(handler, path, { accept })).text),
    );
    for (const [index, [path, accept]] of requests.entries()) {
      assert(texts[index] === (await get(handler, path, { accept })).text, `${path} ${accept}`);
    }
  });
});

// Responses ----------------------------------------------------------------------------------------------------------

Deno.test("handler() responds to OPTIONS with Allow and rejects methods other than GET and HEAD", async () => {
  await using site = await Site.lay({ "a.txt": "a" });
  await using server = start({ root: site.root });
  for (const target of ["/a.txt", "/nothing", "/", "*"]) {
    const { status, headers } = await rawGet(server.port, target, undefined, "OPTIONS");
    assertEquals(
      [status, headers.get("allow"), headers.get("content-length")],
      [204, "GET, HEAD, OPTIONS", null],
      target,
    );
    assertEquals(headers.get("access-control-allow-methods"), null);
  }
  for (const method of ["POST", "PUT", "DELETE", "PATCH", "TRACE", "PROPFIND", "get", "CONNECT"]) {
    const { status, headers } = await rawGet(
      server.port,
      method === "CONNECT" ? "localhost:80" : "/a.txt",
      undefined,
      method,
    );
    assertEquals([status, headers.get("allow")], [405, "GET, HEAD, OPTIONS"], method);
  }
});

Deno.test("handler() links error pages to the folder above, or to the base", async (t) => {
  await using site = await Site.lay({ "a.txt": "a", "sub/x": "x" });
  const cases: [string, string, string | undefined][] = [
    ["/", "/nothing", "/"],
    ["/", "/sub/nothing", "/sub/"],
    ["/", "/sub/nothing/?q", "/sub/"],
    ["/", "//example.com/nothing", "/example.com/"],
    ["/", "/a&%3C%22%0D%3F/nothing", "/a&%3C%22%0D%3F/"],
    ["/", "/%zz", "/"],
    ["/d&x/", "/d&x/nothing", "/d&x/"],
    ["/d&x/", "/d&x/sub/nothing", "/d&x/sub/"],
    ["/d&x/", "/nothing", "/d&x/"],
    ["/d&x/", "/d&x/", undefined],
  ];
  await each(t, cases, ([base, path]) => `${base} ${path}`, async ([base, path, expected]) => {
    const handler = handlerFor({ root: site.root, base, listing: false });
    const { status, text } = await get(handler, path, { accept: "text/html" });
    assertEquals(status, path === "/%zz" ? 400 : 404);
    const [, href, label] = /<p>Go to the folder <a href="([^"]*)"><bdi>([^<]*)<\/bdi><\/a><\/p>/.exec(text) ?? [];
    assertEquals(href && unescapeHtml(href), expected);
    assertEquals(label && unescapeHtml(label), expected && decodeURIComponent(expected));
  });
  await t.step("an unreadable file", async () => {
    const { statSync } = Deno;
    try {
      Deno.statSync = () => {
        throw new Deno.errors.PermissionDenied("denied");
      };
      const { status, text } = await get(handlerFor({ root: site.root }), "/sub/x", { accept: "text/html" });
      assertEquals(status, 403);
      assertStringIncludes(text, "permission to read it");
      assertStringIncludes(text, '<a href="/sub/">');
    } finally {
      Deno.statSync = statSync;
    }
  });
  await t.step("none in a 401", async () => {
    const { status, text } = await get(handlerFor({ root: site.root, auth: "a:b" }), "/sub/x", { accept: "text/html" });
    assertEquals([status, text.includes("<a ")], [401, false]);
  });
});

Deno.test("handler() allows other origins with cors, including preflight requests", async () => {
  await using site = await Site.lay({ "a.txt": "a", "sub/x": "x" });
  const handler = handlerFor({ root: site.root, cors: true });
  const { headers } = await get(handler, "/a.txt");
  for (
    const [path, status, requestHeaders] of [
      ["/a.txt", 200, {}],
      ["/a.txt", 304, { "if-none-match": headers.get("etag")! }],
      ["/a.txt", 206, { range: "bytes=0-0" }],
      ["/a.txt", 416, { range: "bytes=5-" }],
      ["/a.txt", 412, { "if-match": "x" }],
      ["/sub", 301, {}],
      ["/sub/", 200, {}],
      ["/nothing", 404, {}],
      ["/%zz", 400, {}],
    ] as [string, number, Record<string, string>][]
  ) {
    const response = await get(handler, path, { origin: "http://other.example", ...requestHeaders });
    assertEquals([response.status, response.headers.get("access-control-allow-origin")], [status, "*"], path);
  }
  const preflight = await fetchFrom(handler, "/a.txt", {
    method: "OPTIONS",
    headers: {
      origin: "http://other.example",
      "access-control-request-method": "GET",
      "access-control-request-headers": "authorization,x-mine",
    },
  });
  assertEquals(preflight.status, 204);
  assertEquals(preflight.headers.get("access-control-allow-origin"), "*");
  assertEquals(preflight.headers.get("access-control-allow-methods"), "GET, HEAD, OPTIONS");
  assertEquals(preflight.headers.get("access-control-allow-headers"), "authorization,x-mine");
  assertEquals(preflight.headers.get("access-control-max-age"), "86400");

  const plain = await get(handlerFor({ root: site.root }), "/a.txt", { origin: "http://other.example" });
  assertEquals(plain.headers.get("access-control-allow-origin"), null);
});

Deno.test("handler() sends nosniff and Cache-Control with every response, and no Server header", async () => {
  await using site = await Site.lay({ "a.txt": "a", "sub/x": "x" });
  for (const [maxAge, cacheControl] of [[0, "no-cache"], [60, "max-age=60"]] as const) {
    const handler = handlerFor({ root: site.root, maxAge });
    for (const path of ["/a.txt", "/sub", "/sub/", "/nothing", "/%zz"]) {
      const { status, headers } = await get(handler, path);
      assertEquals(headers.get("x-content-type-options"), "nosniff", path);
      const isReusable = path === "/a.txt"; // generated responses are never reused
      assertEquals(status, { "/a.txt": 200, "/sub": 301, "/sub/": 200, "/nothing": 404, "/%zz": 400 }[path]);
      assertEquals(headers.get("cache-control"), isReusable ? cacheControl : "no-cache", path);
      assertEquals(headers.get("server"), null, path);
    }
  }
});

Deno.test("handler() overrides its own headers with the user's on every response", async () => {
  await using site = await Site.lay({ "a.txt": "a", "sub/x": "x" });
  const headers: [string, string][] = [
    ["cache-control", "private"],
    ["X-Content-Type-Options", "mine"],
    ["Content-Type", "text/x-mine"],
    ["Link", "</a>; rel=preload"],
    ["Link", "</b>; rel=preload"],
  ];
  const handler = handlerFor({ root: site.root, headers, cors: true, maxAge: 5 });
  const etag = (await get(handler, "/a.txt")).headers.get("etag")!;
  const requests: [string, RequestInit][] = [
    ["/a.txt", {}],
    ["/a.txt", { headers: { "if-none-match": etag } }],
    ["/a.txt", { headers: { range: "bytes=0-" } }],
    ["/sub", {}],
    ["/sub/", {}],
    ["/nothing", {}],
    ["/%zz", {}],
    ["/a.txt", { method: "PUT" }],
    ["/a.txt", { method: "OPTIONS" }],
  ];
  for (const [path, init] of requests) {
    const response = await fetchFrom(handler, path, init);
    assertEquals(response.headers.get("cache-control"), "private", path);
    assertEquals(response.headers.get("x-content-type-options"), "mine", path);
    assertEquals(response.headers.get("content-type"), "text/x-mine", path);
    assertEquals(response.headers.get("link"), "</a>; rel=preload, </b>; rel=preload", path);
  }
});

Deno.test("handler() logs in the Combined Log Format or in a short one, and prevents log injection", async (t) => {
  await using site = await Site.lay({ "a.txt": "hello" });
  const agent = 'Host: localhost\r\nUser-Agent: "\\\té"\r\nReferer: https://me:secret@x.example/?" 200 5\r\n';
  // The target and the headers of a request, and what follows the address and the time.
  const rows: [target: string, headers: string | undefined, combined: string, short: string][] = [
    ["/a.txt?q=1", undefined, '"GET /a.txt?q=1 HTTP/1.1" 200 5 "-" "-"', "GET /a.txt?q=1 200 5"],
    ["/%0a%1b[31m", undefined, '"GET /%0a%1b[31m HTTP/1.1" 404 14 "-" "-"', "GET /%0a%1b[31m 404 14"],
    ['/"\\', undefined, '"GET /\\"\\\\ HTTP/1.1" 400 16 "-" "-"', 'GET /"\\ 400 16'],
    ["/a.txt", "Host: u@h/x\r\n", '"GET /x/a.txt HTTP/1.1" 400 16 "-" "-"', "GET /x/a.txt 400 16"],
    ["http://x/a.txt", undefined, '"GET //x/a.txt HTTP/1.1" 403 215 "-" "-"', "GET //x/a.txt 403 215"],
    ["http://me:secret@localhost/a", undefined, '"GET /a HTTP/1.1" 400 16 "-" "-"', "GET /a 400 16"],
    [
      "/a.txt",
      agent,
      String.raw`"GET /a.txt HTTP/1.1" 200 5 "https://x.example/?\" 200 5" "\"\\\x09\xc3\xa9\""`,
      "GET /a.txt 200 5",
    ],
  ];
  // Deno 2.5 refuses this target.
  const odd = "/a%C2%9B31m%E2%80%AE%C3%A9";
  if (!isOldDeno) {
    rows.push(["/a\u{9b}31m\u{202e}é", undefined, `"GET ${odd} HTTP/1.1" 404 14 "-" "-"`, `GET ${odd} 404 14`]);
  }
  const lines: string[] = [];
  const options: Partial<Options> = { root: site.root, log: (line) => lines.push(line), now: () => 784111777999 };
  await using combined = start(options);
  await using short = start({ ...options, logFormat: "short" });
  await each(t, rows, ([target]) => target, async ([target, headers, ...expected]) => {
    lines.length = 0;
    for (const { port } of [combined, short]) await rawGet(port, target, headers);
    assertEquals(lines, [
      `127.0.0.1 - - [06/Nov/1994:08:49:37 +0000] ${expected[0]}`,
      `${new Date(784111777999).toTimeString().slice(0, 8)} 127.0.0.1 ${expected[1]} 0ms`,
    ]);
  });
  await t.step("HEAD", async () => {
    lines.length = 0;
    for (const { port } of [combined, short]) await rawGet(port, "/a.txt", undefined, "HEAD");
    assertMatch(lines[0]!, / "HEAD \/a\.txt HTTP\/1\.1" 200 - "-" "-"$/);
    assertMatch(lines[1]!, / HEAD \/a\.txt 200 - 0ms$/);
  });
  await t.step("an IPv6 client, an IPv4-mapped one and none", async () => {
    lines.length = 0;
    const handler = createHandler(options);
    for (const hostname of ["2001:db8::1", "::ffff:192.0.2.7"]) {
      const remoteAddr: Deno.NetAddr = { transport: "tcp", hostname, port: 1 };
      await handler(new Request("http://localhost/"), { remoteAddr, completed: Promise.resolve() });
    }
    await handler(new Request("http://localhost/"));
    assertEquals(lines.map((line) => line.split(" ")[0]), ["2001:db8::1", "192.0.2.7", "-"]);
  });
});

Deno.test("handler() allows pages from public networks with cors, if a preflight asks for it", async () => {
  await using site = await Site.lay({ "a.txt": "a" });
  const name = "access-control-allow-private-network";
  const preflight = { origin: "http://other.example", "access-control-request-method": "GET" };
  const asking = { ...preflight, "access-control-request-private-network": "true" };
  const cases: [boolean, string, Record<string, string>, string | null][] = [
    [true, "OPTIONS", asking, "true"],
    [true, "OPTIONS", preflight, null],
    [true, "OPTIONS", { ...preflight, "access-control-request-private-network": "false" }, null],
    [true, "OPTIONS", { "access-control-request-private-network": "true" }, null], // no preflight
    [true, "GET", asking, null],
    [false, "OPTIONS", asking, null],
  ];
  for (const [cors, method, headers, expected] of cases) {
    const response = await fetchFrom(handlerFor({ root: site.root, cors }), "/a.txt", { method, headers });
    const row = `${cors} ${method} ${JSON.stringify(headers)}`;
    assertEquals([response.status, response.headers.get(name)], [method === "GET" ? 200 : 204, expected], row);
    const methods = cors && method === "OPTIONS" && "origin" in headers ? "GET, HEAD, OPTIONS" : null;
    assertEquals(response.headers.get("access-control-allow-methods"), methods, row);
  }
});

Deno.test("handler() sends max-age for files other than HTML only", async (t) => {
  const text = "text ".repeat(1000);
  await using site = await Site.lay({
    "a.js": text,
    "a.png": text,
    "big.bin": new Uint8Array(2 << 20),
    "page.html": "<p>page",
    "clean.html": "<p>page",
    "doctype": "<!doctype html><p>page",
    "other.html": '<meta charset="gbk">',
    "sub/a.txt": "a",
  });
  const handler = handlerFor({ root: site.root, maxAge: 3600, cors: true });
  const json = { accept: "application/json" };
  const preflight = { "access-control-request-method": "GET" };
  const cases: [string, RequestInit, number, "no-cache" | "max-age=3600"][] = [
    ["/a.js", {}, 200, "max-age=3600"],
    ["/a.js", { headers: { "accept-encoding": "gzip" } }, 200, "max-age=3600"],
    ["/a.js", { headers: { range: "bytes=0-0" } }, 206, "max-age=3600"],
    ["/a.js", { headers: { "if-none-match": "*" } }, 304, "max-age=3600"],
    ["/a.js", { headers: { "if-none-match": "*", "accept-encoding": "gzip" } }, 304, "max-age=3600"],
    ["/a.png", { method: "HEAD" }, 200, "max-age=3600"],
    ["/big.bin", {}, 200, "max-age=3600"],
    ["/page.html", {}, 200, "no-cache"],
    ["/clean", {}, 200, "no-cache"],
    ["/clean", { headers: { "if-none-match": "*" } }, 304, "no-cache"],
    ["/doctype", {}, 200, "no-cache"],
    ["/other.html", {}, 200, "no-cache"],
    ["/sub/", {}, 200, "no-cache"],
    ["/sub/", { headers: json }, 200, "no-cache"],
    ["/sub/", { headers: { ...json, "accept-encoding": "gzip" } }, 200, "no-cache"],
    ["/sub/", { headers: { ...json, "if-none-match": "*" } }, 304, "no-cache"],
    ["/sub", {}, 301, "no-cache"],
    ["/a.js", { method: "OPTIONS" }, 204, "no-cache"],
    ["/a.js", { method: "OPTIONS", headers: preflight }, 204, "no-cache"],
    ["/a.js", { method: "POST" }, 405, "no-cache"],
    ["/a.js", { headers: { "if-match": '"x"' } }, 412, "no-cache"],
    ["/a.js", { headers: { range: "bytes=999999-" } }, 416, "no-cache"],
    ["/nothing", {}, 404, "no-cache"],
    ["/%zz", {}, 400, "no-cache"],
  ];
  await each(t, cases, ([path, init]) => `${path} ${JSON.stringify(init)}`, async ([path, init, status, expected]) => {
    for (let count = 0; count < 2; count++) {
      const response = await fetchFrom(handler, path, init);
      assertEquals([response.status, response.headers.get("cache-control")], [status, expected]);
    }
  });
});

Deno.test("createHandler() rejects invalid headers and an invalid maxAge at once", async (t) => {
  await using site = await Site.lay({ "a.txt": "a" });
  const headers: [name: string, value: string][] = [
    ["bad name", "x"],
    ["", "x"],
    ["bad:name", "x"],
    ["é", "x"],
    ["X-A", "line\r\nfeed"],
    ["X-A", "\0"],
    ["X-A", "\x7f"],
    ["X-A", "\u0100"],
    ["Content-Length", "5"],
    ["transfer-encoding", "chunked"],
  ];
  const invalid: Partial<Options>[] = [
    ...headers.map((header): Partial<Options> => ({ headers: [["X-Good", "1"], header] })),
    ...[-1, NaN, 1.5, Infinity, 2 ** 31 + 1].map((maxAge) => ({ maxAge })),
  ];
  await each(t, invalid, (options) => `${JSON.stringify(options)} ${options.maxAge ?? ""}`, (options) => {
    assertThrows(() => handlerFor({ root: site.root, ...options }), TypeError, options.headers ? "header" : "maxAge");
  });
  const valid: Partial<Options>[] = [
    { headers: [["X-Any!#$%&'*+.^_`|~-1", "\t\x20~\x80\xff"]] },
    { headers: [["X-Empty", ""]] },
    { headers: undefined, maxAge: undefined },
    ...[0, 1, 2 ** 31].map((maxAge) => ({ maxAge })),
  ];
  await each(t, valid, (options) => `valid: ${JSON.stringify(options)}`, async (options) => {
    assertEquals((await get(handlerFor({ root: site.root, ...options }), "/a.txt")).status, 200);
  });
});

// Password -----------------------------------------------------------------------------------------------------------

Deno.test("handler() requires the password for every request", async () => {
  await using site = await Site.lay({ "a.txt": "a", "index.html": "page", "sub/x.txt": "x", "404.html": "none" });
  const handler = handlerFor({ root: site.root, auth: "me:secret" });
  const response = await get(handler, "/a.txt", basic("me:secret"));
  assertEquals([response.status, response.text], [200, "a"]); // caches the file
  const requests: [string, RequestInit][] = [
    ["/a.txt", {}],
    ["/a.txt", { method: "HEAD" }],
    ["/a.txt", { headers: { "if-none-match": "*", range: "bytes=0-0" } }],
    ["/", {}],
    ["/sub", {}],
    ["/sub/", {}],
    ["/nothing", {}],
    ["/.env", {}],
    ["/%zz", {}],
    ["/a.txt", { method: "OPTIONS" }],
    ["/a.txt", { method: "OPTIONS", headers: { origin: "http://x", "access-control-request-method": "GET" } }],
    ["/a.txt", { method: "POST" }],
  ];
  for (const [path, init] of requests) {
    const { status, headers, text } = await fetchFrom(handler, path, init);
    assertEquals([status, text], [401, init.method === "HEAD" ? "" : "401 Unauthorized\n"], path);
    assertEquals(Object.fromEntries(headers), {
      "www-authenticate": 'Basic realm="http-server", charset="UTF-8"',
      "content-type": "text/plain; charset=UTF-8",
      "content-length": "17",
      "cache-control": "no-cache",
      "vary": "Accept",
      "x-content-type-options": "nosniff",
    });
  }
  const open = handlerFor({ root: site.root });
  assertEquals((await get(open, "/a.txt", basic("who:ever"))).status, 200);
});

Deno.test("handler() accepts only the exact password, in UTF-8", async () => {
  await using site = await Site.lay({ "a.txt": "a" });
  const statusOf = async (auth: string, headers: Record<string, string>) =>
    (await get(handlerFor({ root: site.root, auth }), "/a.txt", headers)).status;
  const right: [string, Record<string, string>][] = [
    ["me:secret", basic("me:secret")],
    ["me:secret", basic("me:secret", "bASIC  ")],
    [":secret", basic(":secret")],
    ["me:a:b", basic("me:a:b")],
    ["jürgen:pässwört 😀", basic("jürgen:pässwört 😀")],
  ];
  for (const [auth, headers] of right) assertEquals(await statusOf(auth, headers), 200, auth);
  const wrong: [string, Record<string, string>][] = [
    ["me:secret", {}],
    ["me:secret", { authorization: "" }],
    ["me:secret", { authorization: "Basic" }],
    ["me:secret", { authorization: "Basic " }],
    ["me:secret", { authorization: "Basic me:secret" }],
    ["me:secret", { authorization: "Basic !!!!" }],
    ["me:secret", basic("me:secret", "Bearer")],
    ["me:secret", { authorization: `${basic("me:secret").authorization} x` }],
    ["me:secret", { authorization: `${basic("me:secret").authorization}, ${basic("me:secret").authorization}` }],
    ["me:secret", basic("me:secre")],
    ["me:secret", basic("me:secret\0")],
    ["me:secret", basic("me:Secret")],
    ["me:secret", basic("Me:secret")],
    ["me:secret", basic("mesecret")],
    ["me:secret", basic(":")],
    ["me:a:b", basic("me:a")],
    ["me:é", { authorization: `Basic ${btoa("me:é")}` }], // Latin-1
  ];
  for (const [auth, headers] of wrong) assertEquals(await statusOf(auth, headers), 401, JSON.stringify(headers));
});

Deno.test("createHandler() rejects credentials that no client can send", async () => {
  await using site = await Site.lay({ "a.txt": "a" });
  for (const auth of ["", ":", "me:", "secret", "me:sec\nret"]) {
    assertThrows(() => handlerFor({ root: site.root, auth }), TypeError, "USER:PASSWORD");
  }
});

Deno.test("handler() compares the password in constant time", async () => {
  await using site = await Site.lay({ "a.txt": "a" });
  const nodeCrypto = process.getBuiltinModule("node:crypto");
  const { timingSafeEqual } = nodeCrypto;
  const compared: unknown[] = [];
  try {
    nodeCrypto.timingSafeEqual = (one, other) => {
      const isEqual = timingSafeEqual(one, other);
      compared.push([one.byteLength, other.byteLength, isEqual]);
      return isEqual;
    };
    const handler = handlerFor({ root: site.root, auth: "me:secret" });
    for (const credentials of ["me:secret", "me:s", "a much longer one than it is"]) {
      await get(handler, "/a.txt", basic(credentials));
    }
  } finally {
    nodeCrypto.timingSafeEqual = timingSafeEqual;
  }
  assertEquals(compared, [[32, 32, true], [32, 32, false], [32, 32, false]]);
});

Deno.test("handler() accepts a CORS preflight without the password, but no other request", async () => {
  await using site = await Site.lay({ "a.txt": "a" });
  const handler = handlerFor({ root: site.root, auth: "me:secret", cors: true });
  const headers = { origin: "http://x", "access-control-request-method": "GET" };
  const preflight = await fetchFrom(handler, "/a.txt", {
    method: "OPTIONS",
    headers: { ...headers, "access-control-request-headers": "authorization" },
  });
  assertEquals([preflight.status, preflight.headers.get("access-control-allow-headers")], [204, "authorization"]);
  assertEquals((await fetchFrom(handler, "/a.txt", { method: "OPTIONS" })).status, 401);
  const refusal = await fetchFrom(handler, "/a.txt", { headers });
  assertEquals([refusal.status, refusal.headers.get("access-control-allow-origin")], [401, "*"]);
});

Deno.test("handler() never logs a password", async () => {
  await using site = await Site.lay({ "a.txt": "a", "b.txt": "b" });
  const lines: string[] = [];
  let [calls, failing] = [0, -1];
  const now = () => {
    if (calls++ === failing) throw new Error("unforeseen");
    return 0;
  };
  const errors = await stderrOf(async () => {
    await using server = start({ root: site.root, auth: "me:secret", log: (line) => lines.push(line), now });
    const headers = `Host: localhost\r\nAuthorization: ${basic("me:secret").authorization}\r\n`;
    assertEquals((await rawGet(server.port, "/a.txt", headers)).status, 200);
    assertEquals((await rawGet(server.port, "/a.txt", headers.replace("Basic", "Base"))).status, 401);
    assertEquals((await rawGet(server.port, "http://me:secret@localhost/nothing", headers)).status, 400);
    failing = calls + 1; // after the call that gets the request's start time
    assertEquals((await rawGet(server.port, "/b.txt", headers)).status, 500);
  });
  const text = [...lines, ...errors].join("\n");
  assertEquals([lines.length, errors.length], [4, 1], text);
  assertStringIncludes(text, "GET /b.txt: unforeseen");
  assert(!/secret|bWU6c2VjcmV0/.test(text), text);
});

// Live reload --------------------------------------------------------------------------------------------------------

Deno.test("handler() inserts the script into every HTML response to a navigation and into nothing else", async (t) => {
  const tree = {
    "index.html": "<p>héllo",
    "index.html.br": "precompressed",
    "old.HTM": "<p>old",
    "empty.html": "",
    "sub/404.html": "<p>none",
    "folder/a.txt": "a",
    "big.html": "<p>".repeat(1 << 20),
    "a.txt": "<p>a",
    "a.css": "a { b: c }",
    "a.js": "0".repeat(5000),
    "a.svg": "<svg/>",
    "a.xhtml": "<html/>",
    "locked.html": "<p>locked",
  };
  await using site = await Site.lay(tree);
  await using live = startLive(site);
  await using app = startLive(site, { spa: true });
  const pages: [string, number, string | undefined][] = [
    ["/", 200, tree["index.html"]],
    ["/index", 200, tree["index.html"]],
    ["/old.HTM", 200, tree["old.HTM"]],
    ["/empty.html", 200, ""],
    ["/big.html", 200, tree["big.html"]],
    ["/sub/none.js", 404, tree["sub/404.html"]],
    ["/folder/", 200, undefined],
    ["/none", 404, undefined],
    ["/%zz", 400, undefined],
  ];
  await each(t, pages, ([path]) => `page ${path}`, async ([path, status, text]) => {
    const headers = { ...NAVIGATION, "accept-encoding": "br, gzip, zstd", range: "bytes=0-1", "if-none-match": "*" };
    const response = await get(live.handler, path, headers);
    const isFile = status === 200 && text !== undefined;
    const element = `<script async src="/.live-reload/script.js?${versionIn(response.text)}"${
      isFile ? "" : " data-stand-in"
    }></script>`;
    assertEquals(response.status, status);
    if (text !== undefined) assert(response.text === element + text, response.text.slice(0, 200));
    assertEquals(response.headers.get("cache-control"), "no-store");
    for (const name of ["etag", "last-modified", "accept-ranges", "content-encoding", "content-length"]) {
      assertEquals(response.headers.get(name), null, name);
    }
    const head = await fetchFrom(live.handler, path, { method: "HEAD", headers: NAVIGATION });
    assertEquals([head.status, [...head.headers], head.text], [status, [...response.headers], ""]);
  });
  for (const path of ["/users/jane.doe", "/app"]) {
    assert((await get(app.handler, path, NAVIGATION)).text.endsWith(tree["index.html"]));
  }
  await t.step("other files", async () => {
    for (const name of ["a.txt", "a.css", "a.js", "a.svg", "a.xhtml"] as const) {
      assertEquals((await get(live.handler, `/${name}`, NAVIGATION)).text, tree[name]);
    }
  });
  const requests: [Record<string, string>, boolean][] = [
    [{ "sec-fetch-mode": "navigate", "sec-fetch-dest": "empty" }, true], // a service worker passes it through
    [{ "sec-fetch-mode": "navigate", "sec-fetch-dest": "iframe" }, true],
    [{ "sec-fetch-mode": "cors", accept: "text/html" }, false],
    [{ "sec-fetch-mode": "same-origin" }, false],
    [{ accept: "text/html,application/xhtml+xml" }, true],
    [{ accept: "text/html", "x-requested-with": "XMLHttpRequest" }, false],
    [{ accept: "*/*" }, false],
    [{}, false],
  ];
  await each(t, requests, ([headers]) => JSON.stringify(headers), async ([headers, hasScript]) => {
    const { text } = await get(live.handler, "/", headers);
    assertEquals(text !== tree["index.html"], hasScript);
  });
  await t.step("user headers", async () => {
    for (const header of [["Content-Type", "text/plain"], ["Content-Encoding", "gzip"]] as [string, string][]) {
      await using declared = startLive(site, { headers: [header] });
      assertEquals((await get(declared.handler, "/", NAVIGATION)).text, tree["index.html"]);
    }
    await using own = startLive(site, { headers: [["Cache-Control", "private"]] });
    for (const path of ["/a.txt", "/"]) {
      assertEquals((await get(own.handler, path, NAVIGATION)).headers.get("cache-control"), "private");
    }
  });
});

Deno.test("handler() inserts the script for hosts that the URL parser rejects", async () => {
  await using site = await Site.lay({ "index.html": "<p>page" });
  await using live = startLive(site);
  await using server = start(live.handler);
  for (const host of ["localhost:99999", "1.2.3.4.5"]) {
    const { status, headers } = await rawGet(server.port, "/", `Host: ${host}\r\nAccept: text/html\r\n`, "HEAD");
    assertEquals([status, headers.get("cache-control")], [200, "no-store"], host);
  }
});

Deno.test("handler() inserts the script where nothing in the page can disable it", async (t) => {
  const S = "\u0000"; // the position of the script
  const pages: [string, string][] = [
    ["plain", `${S}<p>text`],
    ["doctype", `<!doctype html>${S}<title>x`],
    ["head", `<!DOCTYPE html>\n<html lang="en">\n<head>\n${S}<title>x</title></head>`],
    ["attributes with >", `<!doctype html><html data-a="<head>" data-b='>'><head data-c=">" >${S}<title>x`],
    ["comments", `<!-- <head> --><!doctype html><!-- a --><html><!-- b --><head><!-- c -->${S}<title>x`],
    ["byte order mark", `\ufeff<!doctype html>${S}<p>x`],
    ["XML declaration", `<?xml version="1.0"?><!doctype html><html>${S}<body>`],
    ["no head element", `<!doctype html><html>${S}<header>x</header>`],
    ["long comment", `<!--${"x".repeat(20_000)}--><!doctype html>${S}<p>x`],
    ["unclosed comment", `<!doctype html>${S}<!-- <head>`],
    ["unclosed title", `<!doctype html><head>${S}<title>x`],
    ["unclosed tag", `<!doctype html>${S}<html lang="en`],
    ["unclosed quote", `<!doctype html><html>${S}<head data-x=">`],
    ["unclosed script", `${S}<script>`],
  ];
  await using site = await Site.lay(
    Object.fromEntries(pages.map(([, text], index) => [`${index}.html`, text.replace(S, "")])),
  );
  await using live = startLive(site);
  await each(t, pages, ([name]) => name, async (page) => {
    const [, text] = page;
    const url = `http://localhost/${pages.indexOf(page)}`;
    const response = await live.handler(new Request(url, { headers: NAVIGATION }));
    const bytes = await response.bytes();
    const received = new TextDecoder("utf-8", { ignoreBOM: true }).decode(bytes);
    assertEquals(received.replace(/<script async [^>]*><\/script>/, S), text);
  });
  await t.step("another charset, declared at the end of the first 1,024 bytes", async () => {
    const start = `<!doctype html><!-- <meta charset=utf-8> --><head>${" ".repeat(900)}<meta charset=iso-8859-1>`;
    site.write({ "latin.html": `${start}<p>x` });
    const { text } = await get(live.handler, "/latin", NAVIGATION);
    assert(text.startsWith(`${start}<script async `), text);
  });
  await t.step("nowhere in UTF-16", async () => {
    for (const isLittleEndian of [true, false]) {
      const text = "\ufeff<!doctype html><meta charset=utf-16><p>x";
      const view = new DataView(new ArrayBuffer(2 * text.length));
      for (let i = 0; i < text.length; i++) view.setUint16(2 * i, text.charCodeAt(i), isLittleEndian);
      site.write({ [`${isLittleEndian}.html`]: new Uint8Array(view.buffer) });
      const response = await live.handler(new Request(`http://localhost/${isLittleEndian}`, { headers: NAVIGATION }));
      assertEquals(await response.bytes(), new Uint8Array(view.buffer), `little-endian: ${isLittleEndian}`);
    }
  });
});

Deno.test("handler() sends no-cache and validators with everything but pages, with live reload", async (t) => {
  await using site = await Site.lay({ "index.html": "<p>page", "a.txt": "hello", "sub/x": "x", "404.html": "none" });
  await using live = startLive(site, { maxAge: 60 });
  const { headers } = await get(live.handler, "/a.txt");
  const conditions = { "if-none-match": headers.get("etag")!, "if-modified-since": headers.get("last-modified")! };
  const rows: [string, number, string, boolean, RequestInit][] = [
    ["/", 200, "no-cache", true, {}],
    ["/a.txt", 200, "no-cache", true, {}],
    ["/a.txt", 304, "no-cache", true, { headers: conditions }],
    ["/a.txt", 304, "no-cache", true, { headers: conditions, method: "HEAD" }],
    ["/a.txt", 206, "no-cache", true, { headers: { range: "bytes=0-1" } }],
    ["/a.txt", 416, "no-cache", false, { headers: { range: "bytes=9-" } }],
    ["/sub", 301, "no-cache", false, {}],
    ["/%zz", 400, "no-cache", false, {}],
    ["/.live-reload/script.js", 200, "no-cache", false, {}],
    ["/.live-reload/events", 200, "no-store", false, { method: "HEAD" }],
  ];
  await each(t, rows, ([path, status]) => `${path} ${status}`, async ([path, status, cacheControl, isValid, init]) => {
    const response = await fetchFrom(live.handler, path, init);
    const validators = ["etag", "last-modified"].map((name) => response.headers.has(name));
    assertEquals([response.status, response.headers.get("cache-control"), ...validators], [
      status,
      cacheControl,
      isValid,
      isValid,
    ]);
  });
});

Deno.test("handler() serves the script from its own path, only with live reload", async () => {
  await using site = await Site.lay({ "a.txt": "a", ".live-reload/events": "the user's", ".live-reload/x": "x" });
  await using live = startLive(site);
  const { status, headers, text } = await get(live.handler, "/.live-reload/script.js?whatever");
  assertEquals([status, headers.get("content-type")], [200, "text/javascript; charset=UTF-8"]);
  assertEquals(headers.get("content-length"), `${encoder.encode(text).length}`);
  new Function(text); // throws on a syntax error
  const head = await fetchFrom(live.handler, "/.live-reload/script.js", { method: "HEAD" });
  assertEquals([[...head.headers], head.text], [[...headers], ""]);
  assertEquals((await get(live.handler, "/.live-reload/x")).status, 404);
  assertEquals((await get(live.handler, "/.live-reload/")).status, 404);
  assertEquals((await fetchFrom(live.handler, "/.live-reload/events", { method: "POST" })).status, 405);
  const handler = handlerFor({ root: site.root });
  for (const name of ["script.js", "events", "x"]) {
    assertEquals((await get(handler, `/.live-reload/${name}`)).status, 404);
  }

  await using withPassword = startLive(site, { auth: "me:secret" });
  for (const name of ["script.js", "events"]) {
    assertEquals((await get(withPassword.handler, `/.live-reload/${name}`)).status, 401);
  }
  const refused = await get(withPassword.handler, "/", NAVIGATION);
  assertEquals([refused.status, refused.text.includes("live-reload")], [401, false]);
});

Deno.test("handler() leaves the requests of live reload out of the log", async () => {
  await using site = await Site.lay({ "index.html": "<p>page" });
  const lines: string[] = [];
  await using live = startLive(site, { base: "/docs", log: (line) => lines.push(line) });
  const check = { method: "HEAD", headers: { "live-reload-check": "1" } };
  assertEquals((await fetchFrom(live.handler, "/docs/", check)).status, 200);
  for (const name of ["script.js?version", "events"]) {
    await fetchFrom(live.handler, `/docs/.live-reload/${name}`, { method: "HEAD" });
  }
  assertEquals(lines, []);
  for (const path of ["/docs/", "/.live-reload/events"]) await fetchFrom(live.handler, path, { method: "HEAD" });
  assertEquals(lines.map((line) => /"(.*?) HTTP/.exec(line)?.[1]), ["HEAD /docs/", "HEAD /.live-reload/events"]);
  lines.length = 0;
  await fetchFrom(live.handler, "/docs/", { headers: check.headers }); // only the script's own requests are left out
  await using withPassword = startLive(site, { auth: "me:secret", log: (line) => lines.push(line) });
  await fetchFrom(withPassword.handler, "/", check);
  assertEquals(lines.map((line) => /"(.*?) HTTP\/1.1" (\d+)/.exec(line)?.slice(1)), [["GET /docs/", "200"], [
    "HEAD /",
    "401",
  ]]);
});

/** Opens a page and what it uses, and listens for changes. */
async function openPage({ handler }: { handler: Handler }, path = "/", uses: string[] = []) {
  const version = versionIn((await get(handler, path, NAVIGATION)).text);
  for (const path of uses) await get(handler, path);
  return { version, ...await listen(handler, version) };
}

Deno.test("handler() reports a change of anything that was requested, and of nothing else", async (t) => {
  const lay = () =>
    Site.lay({
      "index.html": "<p>page",
      "sub/404.html": "none",
      "data.json": "{}",
      "big.bin": new Uint8Array(2 << 20),
      "half.bin": new Uint8Array(1 << 19),
      "list/a.txt": "a",
      "empty": null,
      "unused.txt": "x",
      "style.css": "a {}",
    });
  const uses = [
    "/data.json",
    "/big.bin",
    "/half.bin",
    "/list/",
    "/empty/",
    "/sub/none",
    "/style.css",
    "/soon.js",
    "/soon/",
    "/a/b/none",
  ];
  const rows: [string, (site: Site) => unknown, string[] | undefined][] = [
    ["the page", (site) => site.write({ "index.html": "<p>changed" }), undefined],
    ["a file", (site) => site.write({ "data.json": "[]" }), undefined],
    ["a file of the same size", (site) => site.write({ "data.json": "[]" }), undefined],
    ["a big file", (site) => site.write({ "big.bin": new Uint8Array(2 << 20) }), undefined],
    ["a stylesheet", (site) => site.write({ "style.css": "b {}" }), ["/style.css"]],
    ["a stylesheet saved by rename", (site) => {
      site.write({ "style.css.tmp": "c {}" });
      Deno.renameSync(site.file("style.css.tmp"), site.file("style.css"));
    }, ["/style.css"]],
    ["a stylesheet and another file", (site) => site.write({ "style.css": "d {}", "data.json": "1" }), undefined],
    ["a deleted file", (site) => Deno.removeSync(site.file("data.json")), undefined],
    ["a missing file that is created", (site) => site.write({ "soon.js": "" }), undefined],
    ["a missing page that is created", (site) => site.write({ "sub/none.html": "" }), undefined],
    ["a missing folder that is created", (site) => site.write({ "soon/x": "" }), undefined],
    ["a missing folder with a 404.html", (site) => site.write({ "a/b/404.html": "none" }), undefined],
    ["a nearer 404.html", (site) => site.write({ "404.html": "root's" }), undefined],
    ["the 404.html", (site) => site.write({ "sub/404.html": "other" }), undefined],
    ["a name in a listing", (site) => site.write({ "list/b.txt": "" }), undefined],
    ["a removed empty folder", (site) => Deno.removeSync(site.file("empty")), undefined],
    ["a replaced folder", (site) => {
      Deno.renameSync(site.file("list"), site.file("old"));
      site.write({ "list/other.txt": "" });
    }, undefined],
    ["the root", (site) => {
      Deno.removeSync(site.root, { recursive: true });
      site.write({ "index.html": "<p>new" });
    }, undefined],
  ];
  await eachAtOnce(t, rows, ([name]) => name, async ([, change, styles]) => {
    await using site = await lay();
    await using live = startLive(site);
    const page = await openPage(live, "/", uses);
    const unnoticed = { "unused.txt": "y", "list/.hidden": "", "style.css~": "", "#index.html#": "", "4913": "" };
    site.write(unnoticed); // a change on its own would be a version of its own
    site.write({ "index.html": "<p>page", "half.bin": new Uint8Array(1 << 19) }); // the same bytes
    await change(site);
    const event = await page.next();
    assertEquals([typeof event?.version, event?.styles], ["string", styles]);
    assertEquals(versionIn((await get(live.handler, "/", NAVIGATION)).text), event?.version);
  });
});

Deno.test("handler() reports new names in a folder only if a page lists them", async (t) => {
  const rows: [string, Partial<Options>, string][] = [
    ["a folder that is a path of the app", { spa: true }, "/sub/"],
    ["the root, if the app is 200.html", { spa: true }, "/"],
    ["a folder that is not listed", { listing: false }, "/sub/"],
    ["a folder that was missing", {}, "/new/page"],
  ];
  await eachAtOnce(t, rows, ([name]) => name, async ([, options, path]) => {
    await using site = await Site.lay({ "200.html": "<p>app", "sub/a.txt": "a" });
    await using live = startLive(site, options);
    await get(live.handler, path, NAVIGATION);
    site.write({ "new/a.txt": "a" });
    await clockTick(site.file("new/a.txt"));
    const version = versionIn((await get(live.handler, path, NAVIGATION)).text);
    site.write({ "b.txt": "b", "sub/b.txt": "b", "new/b.txt": "b" });
    assertEquals(versionIn((await get(live.handler, path, NAVIGATION)).text), version);
  });
});

Deno.test("handler() reports changes that follow each other closely once", async () => {
  await using site = await Site.lay({ "index.html": "<p>page", "dist/app.js": "1" });
  await using live = startLive(site);
  const names = Array.from({ length: 300 }, (_, index) => `assets/${index}.js`);
  site.write(Object.fromEntries(names.map((name) => [name, name])));
  const page = await openPage(live, "/", [...names.map((name) => `/${name}`), "/dist/app.js"]);
  for (const name of names) site.write({ [name]: "changed" });
  await Deno.remove(site.file("dist"), { recursive: true });
  site.write({ "dist/app.js": "2" });
  const first = await page.next();
  assert(first !== undefined);
  assertEquals(versionIn((await get(live.handler, "/", NAVIGATION)).text), first.version); // nothing else changed
});

Deno.test("handler() leaves out changes that were undone, and tells pages that were read meanwhile", async () => {
  await using site = await Site.lay({ "index.html": "<p>page", "a.js": "a", "b.js": "b" });
  await using live = startLive(site);
  const page = await openPage(live, "/", ["/a.js", "/b.js"]);
  Deno.renameSync(site.file("a.js"), site.file("a.old"));
  const meanwhile = versionIn((await get(live.handler, "/", NAVIGATION)).text); // sweeps
  assert(meanwhile !== page.version);
  Deno.renameSync(site.file("a.old"), site.file("a.js"));
  const other = await listen(live.handler, meanwhile);
  const event = await page.next();
  assertEquals(event?.styles, []); // nothing to swap
  assert(event?.version !== meanwhile);
  assertEquals((await other.next())?.styles, undefined); // reloads
});

Deno.test("handler() reports changed stylesheets with their decoded paths, but not more than 50", async () => {
  const names = ["style@2.css", "a+b.css", "a&b.css", "@scope/x.css", "a b.css", "é.css", "UPPER.CSS"];
  const many = Array.from({ length: 51 }, (_, index) => `${index}.css`);
  await using site = await Site.lay({
    "index.html": "<p>",
    ...Object.fromEntries([...names, ...many].map((n) => [n, "a"])),
  });
  await using live = startLive(site);
  const page = await openPage(live, "/", [...names, ...many, "a.css.map"].map((name) => encodeURI(`/${name}`)));
  site.write({ "a.css.map": "" }); // pages do not use source maps
  for (const name of names) site.write({ [name]: "changed" });
  assertEquals((await page.next())?.styles?.sort(), names.map((name) => `/${name}`).sort());
  for (const name of many) site.write({ [name]: "changed" });
  const event = await page.next();
  assertEquals([typeof event?.version, event?.styles], ["string", undefined]);
});

Deno.test("handler() reports 3,000 changed stylesheets in one short event", async () => {
  const length = isWindows ? 300 : 3000; // Wine needs milliseconds to look at a file
  const names = Array.from({ length }, (_, index) => `${index}.css`);
  await using site = await Site.lay({ "index.html": "<p>" });
  await using live = startLive(site);
  const page = await openPage(live, "/", names.map((name) => `/${name}`)); // still missing, to save time
  for (const name of names) Deno.writeTextFileSync(site.file(name), "");
  const event = await page.next();
  const version = versionIn((await get(live.handler, "/", NAVIGATION)).text);
  assertEquals(event, { version });
});

Deno.test("handler() does not report changes of files given in ignore", async () => {
  await using site = await Site.lay({
    "index.html": "<p>",
    "a.log": "",
    "logs/x.txt": "",
    "docs/y.txt": "",
    "z.txt": "",
  });
  const lines: string[] = [];
  await using live = startLive(site, { ignore: ["*.log", "logs", "docs/*.txt"], onReload: (line) => lines.push(line) });
  const page = await openPage(live, "/", ["/a.log", "/logs/x.txt", "/docs/y.txt", "/z.txt"]);
  site.write({ "a.log": "1", "logs/x.txt": "1", "docs/y.txt": "1", "z.txt": "1" });
  await page.next();
  assertEquals(lines, ["changed: z.txt"]);
  site.write({ "z.txt": "2", "index.html": "2" });
  await page.next();
  assertMatch(lines[1]!, /^changed: (?:z\.txt|index\.html|) and 1 more$/);
});

Deno.test("handler() reports changes to a page of an old version, and not to a page of the current one", async () => {
  await using site = await Site.lay({ "index.html": "<p>page", "a.css": "a", "b.css": "b" });
  await using live = startLive(site);
  const old = versionIn((await get(live.handler, "/", NAVIGATION)).text);
  for (const path of ["/a.css", "/b.css"]) await get(live.handler, path);
  site.write({ "a.css": "changed" }); // nobody listens
  const current = versionIn((await get(live.handler, "/", NAVIGATION)).text);
  assert(current !== old);
  const [outdated, upToDate] = [await listen(live.handler, old), await listen(live.handler, current)];
  assertEquals(await outdated.next(), { version: current, styles: ["/a.css"] });
  const later = await listen(live.handler, old);
  assertEquals(await later.next(), { version: current, styles: ["/a.css"] });
  site.write({ "b.css": "changed" });
  assertEquals((await upToDate.next())?.styles, ["/b.css"]);
  assertEquals((await outdated.next())?.styles, ["/b.css"]);

  await using restarted = startLive(site);
  const events = await listen(restarted.handler, current);
  assertEquals(await events.next(), { version: versionIn((await get(restarted.handler, "/", NAVIGATION)).text) });
  const unknown = await listen(restarted.handler, "0-0");
  assertEquals(Object.keys(await unknown.next() ?? {}), ["version"]);
});

Deno.test("handler() reloads pages of a version that is older than the remembered changes", async () => {
  await using site = await Site.lay({ "index.html": "<p>page", "a.css": "" });
  await using live = startLive(site, { limits: { knownPaths: 3 } });
  const getVersion = async () => versionIn((await get(live.handler, "/", NAVIGATION)).text);
  const old = await getVersion();
  await get(live.handler, "/a.css");
  const versions = [];
  for (let count = 1; count <= 4; count++) {
    site.write({ "a.css": "x".repeat(count) });
    versions.push(await getVersion());
  }
  assertEquals(new Set(versions).size, 4);
  for (const version of [old, versions[0]!]) {
    assertEquals(await (await listen(live.handler, version)).next(), { version: versions[3]! });
  }
});

Deno.test("handler() notices a change that another request sees first, and one during the read of a page", async () => {
  await using site = await Site.lay({ "index.html": "<p>page", "a.txt": "a" });
  await using live = startLive(site);
  const page = await openPage(live, "/", ["/a.txt"]);
  site.write({ "a.txt": "changed" });
  assertEquals((await get(live.handler, "/a.txt")).text, "changed");
  assert(await page.next());

  const response = await live.handler(new Request("http://localhost/", { headers: NAVIGATION }));
  site.write({ "index.html": "<p>changed" });
  const events = await listen(live.handler, versionIn(await response.text()));
  assertEquals((await events.next())?.styles, undefined);
});

/** Calls a function with the number of the look, from 1, before each look at a file. */
function beforeLooks(file: string, fn: (count: number) => void): Disposable {
  const { statSync } = Deno;
  let count = 0;
  Deno.statSync = (path) => {
    if (join(`${path}`) === file) fn(++count);
    return statSync(path);
  };
  return { [Symbol.dispose]: () => Deno.statSync = statSync };
}

/** Watches the rests of live reload between two sweeps. */
function watchRests() {
  const { setTimeout, clearTimeout } = globalThis;
  const rests: number[] = []; // in milliseconds
  const pending = new Set<ReturnType<typeof setTimeout>>();
  Object.assign(globalThis, {
    setTimeout(callback: () => void, delay = 0) {
      const timer = setTimeout(() => (pending.delete(timer), callback()), delay);
      if (delay < 100 || delay > 1000 || delay === 200) return timer; // of something else, such as the wait for a sweep
      rests.push(delay);
      pending.add(timer);
      return timer;
    },
    clearTimeout(timer: ReturnType<typeof setTimeout>) {
      pending.delete(timer);
      clearTimeout(timer);
    },
  });
  return { rests, pending, [Symbol.dispose]: () => Object.assign(globalThis, { setTimeout, clearTimeout }) };
}

Deno.test("handler() notices a change that another request reads first, if only a precompressed file was read", async () => {
  await using site = await Site.lay({ "index.html": "<p>page", "a.js": "one", "a.js.br": "precompressed" });
  await using live = startLive(site);
  const page = await openPage(live);
  assertEquals((await get(live.handler, "/a.js", { "accept-encoding": "br" })).text, "precompressed");
  site.write({ "a.js": "changed" }); // to another length: its times may be the same
  assertEquals((await get(live.handler, "/a.js")).text, "changed");
  assert(await page.next());
});

Deno.test("handler() notices a second change that leaves the metadata as it was, when the file has settled", async () => {
  await using site = await Site.lay({ "index.html": "<p>page", "a.txt": "one" });
  let time = Date.now();
  await using live = startLive(site, { now: () => time });
  const { statSync } = Deno;
  const info = statSync(site.file("a.txt"));
  try {
    Deno.statSync = (path) => join(`${path}`) === site.file("a.txt") ? info : statSync(path);
    const page = await openPage(live, "/", ["/a.txt"]);
    site.write({ "a.txt": "two" });
    time += 3000;
    assert(await page.next());
  } finally {
    Deno.statSync = statSync;
  }
});

Deno.test("handler() notices a change that another request reads while it is written", async () => {
  await using site = await Site.lay({ "index.html": "<p>page", "a.txt": "one" });
  await using live = startLive(site, { now: Date.now }); // the file is too new for the cache
  const page = await openPage(live, "/", ["/a.txt"]);
  const fs = process.getBuiltinModule("node:fs");
  const { readSync } = fs;
  try {
    fs.readSync = ((...args: Parameters<typeof readSync>) => {
      site.write({ "a.txt": "two" }); // in place, after it was opened
      return readSync(...args);
    }) as typeof readSync;
    assertEquals((await get(live.handler, "/a.txt")).text, "two");
  } finally {
    fs.readSync = readSync;
  }
  assert(await page.next());
});

Deno.test("handler() reports changes at the end of the first sweep that finds no other", async (t) => {
  await t.step("while a page listens", async () => {
    await using site = await Site.lay({ "index.html": "<p>page", "a.js": "" });
    await using live = startLive(site);
    const page = await openPage(live, "/", ["/a.js"]);
    let looks = 0;
    using _ = beforeLooks(site.file("index.html"), (count) => { // a.js is looked at later in the same sweep
      looks = count;
      if (count <= 5) site.write({ "a.js": `${count}` });
    });
    assert(await page.next());
    assertEquals(looks, 6);
  });
  await t.step("that the request for a page noticed", async () => {
    await using site = await Site.lay({ "index.html": "<p>page" });
    await using live = startLive(site);
    const old = versionIn((await get(live.handler, "/", NAVIGATION)).text);
    site.write({ "index.html": "<p>changed" });
    assert(versionIn((await get(live.handler, "/", NAVIGATION)).text) !== old);
    let looks = 0;
    using _ = beforeLooks(site.file("index.html"), (count) => looks = count);
    assert(await (await listen(live.handler, old)).next());
    assertEquals(looks, 2); // the first may follow the change at once
  });
  await t.step("or after twenty sweeps that found other changes", async () => {
    await using site = await Site.lay({ "index.html": "<p>page", "busy.log": "" });
    await using live = startLive(site);
    const page = await openPage(live, "/", ["/busy.log"]);
    let looks = 0;
    using _ = beforeLooks(site.file("index.html"), (count) => {
      looks = count;
      site.write({ "busy.log": `${count}` });
    });
    assert(await page.next());
    assertEquals(looks, 20); // and one before
    await page.next();
    assertEquals(looks, 41); // counts anew
  });
});

Deno.test("handler() rests between two sweeps, 25 times as long as they take, but at most a second", async (t) => {
  const rows: [lookTime: number, rest: number][] = [[0, 100], [3, 100], [12, 300], [100, 1000]];
  await each(t, rows, ([lookTime]) => `${lookTime} ms for a look`, async ([lookTime, rest]) => {
    await using site = await Site.lay({ "index.html": "<p>page" });
    let time = later();
    await using live = startLive(site, { now: () => time, limits: { sweepRest: 100 } });
    using timers = watchRests();
    const { rests } = timers;
    const page = await openPage(live);
    using _ = beforeLooks(site.file("index.html"), () => time += lookTime); // the clock stands still otherwise
    await until(() => rests.length >= 2, "two sweeps");
    assertEquals(rests[1], rest);
    site.write({ "index.html": "<p>changed" });
    assert(await page.next());
    assertEquals(rests.at(-2), 100); // while pages wait for an event
  });
});

Deno.test("handler() does not remember paths that are too long for a file", async () => {
  await using site = await Site.lay({ "index.html": "<p>page", "last.txt": "" });
  for (const ignore of [[], ["*.log"]]) {
    await using live = startLive(site, { ignore });
    for (const path of ["/a".repeat(30_000), `/${"a".repeat(60_000)}`]) {
      assertEquals((await get(live.handler, path)).status, 404);
    }
    await get(live.handler, "/last.txt");
    const fs = process.getBuiltinModule("node:fs");
    const { existsSync } = fs;
    let longest = 0;
    const seen = new Set<string>();
    const { statSync } = Deno;
    try {
      fs.existsSync = (path) => (longest = Math.max(longest, `${path}`.length), existsSync(path));
      Deno.statSync = (path) => (seen.add(join(`${path}`)), statSync(path));
      await until(async () => {
        await get(live.handler, "/", NAVIGATION); // sweeps
        return seen.has(site.file("last.txt"));
      }, "the end of a sweep");
    } finally {
      fs.existsSync = existsSync;
      Deno.statSync = statSync;
    }
    assert(longest < 4200, `${longest} characters`);
  }
});

Deno.test("handler() forgets the path that was requested the longest time ago beyond a limit", async () => {
  await using site = await Site.lay({ "index.html": "<p>page", "used.txt": "", "old.txt": "", "last.txt": "" });
  await using live = startLive(site, { limits: { knownPaths: 100 } });
  const getMissing = async (first: number) => {
    for (let index = first; index < first + 30; index++) await get(live.handler, `/missing/${index}.txt`);
  };
  for (const path of ["/used.txt", "/old.txt"]) await get(live.handler, path);
  await getMissing(0);
  await get(live.handler, "/used.txt");
  await getMissing(30);
  await get(live.handler, "/last.txt");
  const { statSync } = Deno;
  const seen = new Set<string>();
  try {
    Deno.statSync = (path) => (seen.add(join(`${path}`)), statSync(path));
    await until(async () => {
      await get(live.handler, "/", NAVIGATION); // sweeps
      return seen.has(site.file("last.txt"));
    }, "the end of a sweep");
    assertEquals(["used.txt", "old.txt"].map((name) => seen.has(site.file(name))), [true, false]);
  } finally {
    Deno.statSync = statSync;
  }
});

Deno.test("handler() ends its event streams when the signal aborts, starts no new ones, and leaves nothing running", async () => {
  await using site = await Site.lay({ "index.html": "<p>page" });
  await using live = startLive(site, { limits: { sweepRest: 100 } });
  using timers = watchRests();
  const version = versionIn((await get(live.handler, "/", NAVIGATION)).text);
  const listeners = await Promise.all([1, 2].map(() => listen(live.handler, version)));
  const disconnected = await listen(live.handler, version);
  await disconnected.cancel();
  await fetchFrom(live.handler, "/.live-reload/events", { method: "HEAD" });
  site.write({ "index.html": "<p>changed" });
  for (const events of listeners) assert(await events.next());
  await until(() => timers.pending.size > 0, "a rest");
  live.stop.abort();
  assertEquals(timers.pending.size, 0);
  for (const events of listeners) assertEquals(await events.next(), undefined);
  assertEquals((await get(live.handler, "/.live-reload/events")).text, ""); // ends immediately
  assertEquals((await get(live.handler, "/")).status, 200);
});

Deno.test("handler() gives a page the version after a change that a running sweep missed", async () => {
  await using site = await Site.lay({ "index.html": "<p>page", "a.txt": "a" });
  await using live = startLive(site);
  const getVersion = async () => versionIn((await get(live.handler, "/", NAVIGATION)).text);
  const old = await getVersion();
  await get(live.handler, "/a.txt");
  let version: Promise<string> | undefined;
  {
    using _ = beforeLooks(site.file("a.txt"), () => { // the sweep has looked at index.html
      if (version !== undefined) return;
      site.write({ "index.html": "<p>changed" });
      version = getVersion();
    });
    await getVersion();
  }
  const current = await getVersion();
  assert(current !== old);
  assertEquals(await version, current);
});

Deno.test("handler() lets a page that is opened during a burst swap the stylesheets", async () => {
  await using site = await Site.lay({ "index.html": "<p>page", "a.css": "a {}", "b.css": "b {}" });
  await using live = startLive(site);
  const page = await openPage(live, "/", ["/a.css", "/b.css"]);
  site.write({ "a.css": "changed {}" });
  const version = versionIn((await get(live.handler, "/", NAVIGATION)).text); // sweeps
  const later = await listen(live.handler, version);
  site.write({ "b.css": "changed {}" });
  assert(await page.next());
  const event = await later.next();
  assertEquals(event?.styles, ["/b.css"]);
});

Deno.test("handler() never sweeps twice at a time, even if another page comes during a sweep", async () => {
  await using site = await Site.lay({ "index.html": "<p>page" });
  await using live = startLive(site, { limits: { sweepRest: 100 } });
  using timers = watchRests();
  const page = await openPage(live);
  await until(() => timers.pending.size === 1, "a rest");
  const sweep = Promise.withResolvers<() => void>(); // resolves to the rest of a sweep that yields to other requests
  let looks = 0;
  using _ = beforeLooks(site.file("index.html"), (count) => {
    looks = count;
    if (count > 1) return;
    for (const end = performance.now() + 5; performance.now() < end;); // longer than a slice of a sweep
    const { setTimeout } = globalThis;
    const hold = (callback: () => void) => (globalThis.setTimeout = setTimeout, sweep.resolve(callback), 0);
    Object.assign(globalThis, { setTimeout: hold });
  });
  const finish = await within(sweep.promise, "a sweep");
  await page.cancel();
  const other = await listen(live.handler, page.version);
  await get(live.handler, "/none", NAVIGATION); // does not wait for the end of the sweep
  assertEquals(looks, 1);
  finish();
  await until(() => timers.pending.size > 0, "a rest");
  assertEquals(timers.pending.size, 1);
  site.write({ "index.html": "<p>changed" });
  assert(await other.next());
});

Deno.test("handler() looks at nothing while nobody listens", async () => {
  await using site = await Site.lay({ "index.html": "<p>page" });
  await using live = startLive(site, { limits: { sweepRest: 100 } });
  using timers = watchRests();
  const page = await openPage(live);
  await until(() => timers.pending.size > 0, "a rest");
  await page.cancel();
  assertEquals(timers.pending.size, 0);
  const head = await fetchFrom(live.handler, "/.live-reload/events", { method: "HEAD" });
  assertEquals([head.status, timers.pending.size], [200, 0]);
});

Deno.test({
  name: "handler() starts beside folders that it can't read, and counts them as missing",
  ignore: !isRoot,
  async fn() {
    await using site = await Site.lay({ "index.html": "<p>page", "locked/a.txt": "a", "open/b.txt": "b" });
    await chmod(site.file("open"), 0o777);
    await chmod(site.file("locked"), 0);
    await withoutRights(async () => {
      await using live = startLive(site);
      const page = await openPage(live, "/", ["/open/b.txt", "/locked/a.txt", "/locked/"]);
      await Deno.remove(site.file("open/b.txt"));
      assert(await page.next());
    });
    await chmod(site.file("locked"), 0o755);
  },
});

// Certificate --------------------------------------------------------------------------------------------------------

Deno.test({
  name: "makeCertificate() names this machine and the given hosts, and is valid from yesterday for a year",
  ignore: isOldDeno, // which parses no certificates
  async fn() {
    const hosts = [".example.com", "bücher.example", "A.example:80", "192.168.1.2", "2001:db8::1", "::ffff:1.2.3.4"];
    const before = Date.now();
    const { cert, key } = await makeCertificate([...hosts, "no host", ""]);
    const certificate = new X509Certificate(cert);
    assertEquals(certificate.subjectAltName?.split(", "), [
      ...["DNS:localhost", "IP Address:127.0.0.1", "IP Address:::1", "DNS:example.com", "DNS:*.example.com"],
      ...["DNS:xn--bcher-kva.example", "DNS:a.example", "IP Address:192.168.1.2", "IP Address:2001:db8::1"],
      "IP Address:::ffff:1.2.3.4",
    ]);
    const [from, to] = [certificate.validFrom, certificate.validTo].map((time) => Date.parse(time)) as [number, number];
    assertEquals(to - from, 365 * 86_400_000);
    assert(Math.abs(before - 86_400_000 - from) < 60_000, certificate.validFrom);
    assertEquals([certificate.ca, certificate.checkPrivateKey(createPrivateKey(key))], [false, true]);
    assertNotEquals(new X509Certificate((await makeCertificate()).cert).serialNumber, certificate.serialNumber);
  },
});

Deno.test({
  name: "makeCertificate() makes certificates that openssl accepts",
  ignore: !await canRun("openssl", "version"),
  async fn() {
    for (let count = 0; count < 20; count++) { // half of all numbers in a signature need a leading zero
      await using site = await Site.lay({ "cert.pem": (await makeCertificate()).cert });
      const file = site.file("cert.pem");
      const args = ["verify", "-x509_strict", "-check_ss_sig", "-purpose", "sslserver", "-CAfile", file, file];
      const { stderr } = await new Deno.Command("openssl", { args }).output();
      assertEquals(decoder.decode(stderr), "");
    }
  },
});

/** Reports whether a program is installed. */
async function canRun(program: string, ...args: string[]): Promise<boolean> {
  try {
    return (await new Deno.Command(program, { args }).output()).success;
  } catch {
    return false;
  }
}

// Command line -------------------------------------------------------------------------------------------------------

Deno.test("main() reports a usage error in one sentence with exit code 2", async (t) => {
  await using site = await Site.lay({ "file.txt": "x", "cert.pem": "no certificate" });
  const missing = site.file("missing");
  const file = site.file("file.txt");
  const cert = site.file("cert.pem");
  const cases: [string[], string][] = [
    [["--nope"], "unknown option '--nope'; --help lists the options."],
    [["-x"], "unknown option '-x'; --help lists the options."],
    [["--listing"], "unknown option '--listing'; --help lists the options."],
    [["--dotfile"], "unknown option '--dotfile'; use --dotfiles."],
    [["--no-dotfiles"], "unknown option '--no-dotfiles'; --help lists the options."],
    [["--no-list"], "unknown option '--no-list'; use --no-listing."],
    [["--LIVE"], "unknown option '--LIVE'; use --live."],
    [["--prot=80"], "unknown option '--prot'; --help lists the options."],
    [["-v"], "unknown option '-v'; use --version."],
    [["--single"], "unknown option '--single'; use --spa."],
    [["-s"], "unknown option '-s'; use --spa for a single-page app, or --quiet."],
    [["--bind", "::"], "unknown option '--bind'; use --host and --port."],
    [["-d", "x"], "unknown option '-d'; give the folder without an option."],
    [["-S"], "unknown option '-S'; use --https, or --cert and --key."],
    [["--tls-cert", "x"], "unknown option '--tls-cert'; use --https, or --cert and --key."],
    [["--watch"], "unknown option '--watch'; use --live."],
    [["-o"], "unknown option '-o'; open the printed address in a browser."],
    [["-c-1"], "unknown option '-c'; use --max-age."],
    [["--cache", "9"], "unknown option '--cache'; use --max-age."],
    [["--cors=*"], "option '--cors' does not take an argument; --help lists the options."],
    [["--spa=yes"], "option '--spa' does not take an argument; --help lists the options."],
    [["--port"], "option '-p, --port' needs a value; --help lists the options."],
    [["--port", "--spa"], "option '--port' needs a value that does not begin with a dash; --help lists the options."],
    [["--port", "70000"], '--port must be a whole number from 0 to 65535, not "70000".'],
    [["--port="], '--port must be a whole number from 0 to 65535, not "".'],
    [["--port=-1"], '--port must be a whole number from 0 to 65535, not "-1".'],
    [["--port", "-1"], "option '--port' needs a value that does not begin with a dash; --help lists the options."],
    [["-p", "-1"], "option '-p' needs a value that does not begin with a dash; --help lists the options."],
    [["--max-age=-5"], '--max-age must be a whole number from 0 to 2147483648, not "-5".'],
    [["-5"], "unknown option '-5'; --help lists the options."],
    [["-p", "80a"], '--port must be a whole number from 0 to 65535, not "80a".'],
    [["-p", "1e3"], '--port must be a whole number from 0 to 65535, not "1e3".'],
    [["--max-age", "1.5"], '--max-age must be a whole number from 0 to 2147483648, not "1.5".'],
    [["--host", ""], "--host needs an address to listen on, such as 127.0.0.1."],
    [["--header", "nonsense"], '--header must be "Name: value", not "nonsense".'],
    [["--header", ": x"], '--header must be "Name: value", not ": x".'],
    [["--header", "A b: x"], 'no header can have the name "A b".'],
    [["--header", "A: x\r\nB: y"], "the header A needs a valid value."],
    [["--header", "Content-Length: 5"], "the header Content-Length is set by the server."],
    [["--header", "transfer-encoding: chunked"], "the header transfer-encoding is set by the server."],
    [["--header", "A: \x01"], "the header A needs a valid value."],
    [["--header", "A: \x7f"], "the header A needs a valid value."],
    [["--cert", "cert.pem"], "--cert and --key must be given together, each with a file."],
    [["--cert=", "--key="], "--cert and --key must be given together, each with a file."],
    [["--key", "key.pem"], "--cert and --key must be given together, each with a file."],
    ...["cert", "key"].map((name): [string[], string] => [
      ["--https", `--${name}`, cert],
      "leave out --https to use the certificate of --cert and --key.",
    ]),
    [["--cert", missing, "--key", cert, site.root], `--cert: no such file: ${missing}.`],
    [["--cert", cert, "--key", missing, site.root], `--key: no such file: ${missing}.`],
    ...["http://example.com/", "*.example.com", "", "a b"].map((name): [string[], string] => [
      ["--allow-host", name],
      `--allow-host must be a name such as example.com or .example.com, not "${name}".`,
    ]),
    [["8000"], `there is no folder ${join(Deno.cwd(), "8000")}; for a port, use --port 8000.`],
    [["--live", "--max-age", "1"], "leave out --max-age: with --live, browsers revalidate every file."],
    [["--auth"], "option '--auth' needs a value; --help lists the options."],
    ...["", ":", "user:", "password", "user:pass\nword", "us\x7fer:password"].map((auth): [string[], string] => [
      ["--auth", auth],
      "auth must be USER:PASSWORD, with a colon, a password and no control characters.",
    ]),
    [["a", "b"], "expected one folder, got 2."],
    [[".", "a", "b"], "expected one folder, got 2."], // with the folder of a command that is installed
    [["--ignore", "x"], "--ignore needs --live."],
    [[""], "the name of the folder is empty."],
    [[missing], `there is no folder ${missing}.`],
    [[file], `${file} is not a folder.`],
    [[join(file, "x")], isWindows ? `there is no folder ${join(file, "x")}.` : `${join(file, "x")} is not a folder.`],
  ];
  for (const [args, sentence] of cases) {
    await t.step(args.join(" ") || "empty folder name", async () => {
      assertEquals(await runMain([...NOWHERE, ...args]), {
        code: 2,
        stdout: "",
        stderr: `http-server: ${sentence}\n`,
      });
    });
  }
  await t.step("in a process", async () => {
    const stderr = `http-server: unknown option '--nope'; --help lists the options.\n`;
    assertEquals(await run(["--nope"]), { code: 2, stdout: "", stderr });
  });
});

Deno.test("main() passes its options to the handler", async () => {
  await using site = await Site.lay({ ".env": "dot", "index.html": "app", "sub/a.txt": "a" });
  await using server = await Served.start([
    ...["--port=0", "-a", "127.0.0.1", "-q", "--dotfiles", "--spa", "--cors", "--no-listing", "--max-age", "60"],
    ...["--header", "X-One: 1:1", "--header=X-Two:2", "--", site.root],
  ]);
  assertEquals(
    server.startUp,
    `Local    http://127.0.0.1:${server.port}/\nVersion  http-server ${VERSION}\nFolder   ${site.root}\n` +
      `Options  --dotfiles --spa --cors --no-listing --max-age --header\n`,
  );
  const response = await fetch(`${server.url}.env`);
  assertEquals(await response.text(), "dot");
  for (
    const [name, value] of [
      ["x-one", "1:1"],
      ["x-two", "2"],
      ["cache-control", "max-age=60"],
      ["access-control-allow-origin", "*"],
    ] as const
  ) {
    assertEquals(response.headers.get(name), value);
  }
  assertEquals(await (await fetch(`${server.url}user/42`)).text(), "app");
  assertEquals(await (await fetch(`${server.url}sub/`)).text(), "app"); // no listing
});

Deno.test("main() stops even if nobody reads its log", async (t) => {
  await using site = await Site.lay({ "a.txt": "a" });
  const path = "n".repeat(8000);
  await t.step("from a pipe", async () => {
    await using server = await Served.start(["--port", "0", site.root], { limits: { flushTime: 50 } });
    const resume = server.pauseOutput();
    for (let count = 0; count < 100; count++) await (await fetch(`${server.url}${path}`)).body?.cancel();
    server.signal("SIGTERM");
    assertEquals((await within(server.status, "the server to stop")).code, 0);
    resume();
  });
  if (!isLinux) return;
  await t.step("on a terminal", async () => {
    const shell = 'exec script --quiet --return --command "exec $SERVER" /dev/null';
    const limits = { sameSignalTime: 10, stopTime: 100, flushTime: 100 };
    await using server = await Served.start(["--port", "0", "--host", "127.0.0.1", site.root], { limits, shell });
    const resume = server.pauseOutput();
    const url = `http://127.0.0.1:${server.port}/${path}`;
    for (let count = 0; count < 60; count++) await (await fetch(url)).body?.cancel(); // more than the terminal buffers
    using _idle = await RawClient.connect(server.port); // so that it can't stop at once
    const child = Number(await Deno.readTextFile(`/proc/${server.pid}/task/${server.pid}/children`));
    Deno.kill(child, "SIGINT");
    const isRunning = () => {
      try {
        return Deno.readTextFileSync(`/proc/${child}/stat`).split(") ")[1]?.[0] !== "Z";
      } catch {
        return false;
      }
    };
    await until(() => !isRunning(), "the end of the server");
    resume();
  });
});

Deno.test("main() drops lines of its log while the log reader pauses, and resumes logging afterwards", async () => {
  await using site = await Site.lay({ "a.txt": "a" });
  await using server = await Served.start(["--port", "0", site.root], { limits: { logSize: 50_000 } });
  const resume = server.pauseOutput();
  for (let count = 0; count < 150; count++) { // more than the pipe and the server can buffer
    await (await fetch(`${server.url}${"n".repeat(8000)}`)).body?.cancel();
  }
  resume();
  for (let count = 0; count < 1000 && !server.log.includes(" /last "); count++) {
    await (await fetch(`${server.url}last`)).body?.cancel();
  }
  assertStringIncludes(server.log, 'GET /last HTTP/1.1" 404 ');
  assert(server.log.length < 600_000, `${server.log.length} characters were buffered`);
  assertEquals(await server.stop(), 0);
});

Deno.test("main() prints its help and its version", async () => {
  for (const flag of ["-h", "--help"]) {
    assertEquals(await runMain([flag]), { code: 0, stdout: `${helpText()}\n`, stderr: "" });
  }
  for (const line of helpText().split("\n")) assert(line.length <= 80, line);
  for (const flag of ["-V", "--version"]) assertEquals((await runMain([flag])).stdout, `http-server ${VERSION}\n`);
  assertEquals((await run(["--help"], [])).stdout, `${helpText()}\n`);
});

Deno.test({
  name: "main() reports in one sentence that its output cannot be written",
  ignore: !isLinux,
  async fn() {
    const command = `"${Deno.execPath()}" run --quiet "${script}" --help > /dev/full`;
    const { code, stderr } = await new Deno.Command("sh", { args: ["-c", command], stdin: "null" }).output();
    assertEquals([code, decoder.decode(stderr)], [1, "http-server: No space left on device (os error 28).\n"]);
  },
});

Deno.test("main() reports in one sentence that Deno is too old", async (t) => {
  const { version } = Deno;
  const rows: [string, number][] = [["1.46.3", 1], ["2.4.5", 1], ["2.5.0", 0], ["2.10.1", 0], ["3.0.0", 0]];
  await each(t, rows, ([deno]) => deno, async ([deno, code]) => {
    try {
      Object.assign(Deno, { version: { ...version, deno } });
      const stderr = code === 1 ? `http-server: Deno 2.5 or later is needed; this is Deno ${deno}.\n` : "";
      assertEquals(await runMain(["--version"]), {
        code,
        stdout: code === 1 ? "" : `http-server ${VERSION}\n`,
        stderr,
      });
    } finally {
      Object.assign(Deno, { version });
    }
  });
});

Deno.test("README.md, deno.json and server.ts agree", async () => {
  const read = (name: string) => Deno.readTextFile(join(here, name));
  assertStringIncludes(await read("README.md"), `\`\`\`text\n${helpText()}\n\`\`\``);
  const { version, imports } = JSON.parse(await read("deno.json"));
  assertEquals(version, VERSION);
  for (const [, specifier] of (await read("server.ts")).matchAll(/from "(jsr:@std\/[a-z]+@[^/"]+)/g)) {
    assert(Object.values(imports).includes(specifier), specifier);
  }
});

// Server -------------------------------------------------------------------------------------------------------------

/** The name of this machine in the start-up message. Browsers on Windows try ::1 first for `localhost`. */
const LOCAL_NAME = isWindows ? "127.0.0.1" : "localhost";

Deno.test("main() serves the www folder beside the script from any current folder", async () => {
  await using site = await Site.lay({});
  await using server = await Served.start(["--port", "0"], { cwd: site.root });
  assertEquals(
    server.startUp,
    `Local    http://${LOCAL_NAME}:${server.port}/\nVersion  http-server ${VERSION}\nFolder   ${join(here, "www")}\n`,
  );
  assertEquals(await (await fetch(server.url)).text(), await Deno.readTextFile(join(here, "www/index.html")));
  const missing = await fetch(`${server.url}nothing`);
  assertEquals(missing.status, 404);
  await missing.body?.cancel();
  server.signal("SIGTERM");
  const { code, stdout, stderr } = await server.finish();
  assertEquals([code, stderr], [0, ""]);
  const time = String.raw`\[\d\d/\w{3}/\d{4}:\d\d:\d\d:\d\d \+0000\]`;
  const line = (request: string) => String.raw`127\.0\.0\.1 - - ${time} "${request} \d+ "-" "Deno/\S+"\n`;
  assertMatch(stdout, new RegExp(`^${line('GET / HTTP/1.1" 200')}${line('GET /nothing HTTP/1.1" 404')}$`));
});

Deno.test({
  name: "main() needs permissions only for its port and its folder",
  ignore: isOldDeno, // Deno 2.5 lists no folder that contains a denied file
  async fn() {
    await using site = await Site.lay({ "www/a.txt": "a", "www/sub/b.txt": "b", "www/secret.txt": "SECRET" });
    const root = site.file("www");
    const secret = join(root, "secret.txt");
    const permissions = ["--allow-net=0.0.0.0:0", `--allow-read=${root}`, `--deny-read=${secret}`];
    await using server = await Served.start(["--port", "0", "--quiet", root], { permissions });
    assertEquals(await (await fetch(`${server.url}a.txt`)).text(), "a");
    assertEquals(namesIn(await (await fetch(`${server.url}sub/`)).text()), ["b.txt"]);
    const forbidden = await fetch(`${server.url}secret.txt`);
    assertEquals([forbidden.status, await forbidden.text()], [403, "403 Forbidden\n"]);
    server.signal("SIGINT");
    assertEquals(await server.finish(), { code: 0, stdout: "", stderr: "" });
  },
});

Deno.test("main() listens on IPv4 if it may not use some other addresses", async (t) => {
  await using site = await Site.lay({ "a.txt": "a" });
  await eachAtOnce(t, ["[::]", "127.0.0.1"], (address) => address, async (address) => {
    const permissions = ["--allow-net", `--deny-net=${address}`, "--allow-read"];
    await using server = await Served.start(["--port", "0", "--quiet", site.root], { permissions });
    assertEquals(await (await fetch(`${server.url}a.txt`)).text(), "a");
  });
});

/** Makes a folder available at another path, by a link if this machine has links. */
function linkOrCopy(folder: string, target: string): void {
  if (HAS_LINKS) return link(folder, target);
  Deno.mkdirSync(target);
  for (const { name, isDirectory } of Deno.readDirSync(folder)) {
    if (isDirectory) linkOrCopy(join(folder, name), join(target, name));
    else Deno.copyFileSync(join(folder, name), join(target, name));
  }
}

Deno.test("main() serves the www folder beside the script or else the current folder, on IPv4 and IPv6", async () => {
  await using site = await Site.lay({ "a.txt": "here" });
  for (const name of ["server.ts", "deno.json"]) await Deno.copyFile(join(here, name), site.file(name));
  if (exists(join(here, "vendor"))) linkOrCopy(join(here, "vendor"), site.file("vendor"));
  const start = () => Served.start(["--port", "0"], { cwd: site.root, program: site.file("server.ts") });
  {
    await using server = await start();
    assertStringIncludes(server.startUp, `\nFolder   ${site.root} (the current folder)\n`);
    assertEquals(await (await fetch(`http://127.0.0.1:${server.port}/a.txt`)).text(), "here");
    server.signal("SIGINT");
    assertMatch(
      (await server.finish()).stdout,
      /^127\.0\.0\.1 - - \[.*\] "GET \/a\.txt HTTP\/1\.1" 200 4 "-" ".*"\n$/,
    );
  }
  site.write({ "www/a.txt": "www" });
  await using server = await start();
  assertStringIncludes(server.startUp, `\nFolder   ${site.file("www")}\n`);
  assertEquals(await (await fetch(`http://127.0.0.1:${server.port}/a.txt`)).text(), "www");
  if (isWindows || !canListen("::1")) return; // on Windows, the server listens on IPv4 only
  assertEquals(await (await fetch(`http://[::1]:${server.port}/a.txt`)).text(), "www");
});

Deno.test("deno task start serves a relative folder of the caller, not of the project", async () => {
  await using site = await Site.lay({ "a folder/a.txt": "a" });
  const task = `"${Deno.execPath()}" task --config "${join(here, "deno.json")}" start`;
  const { INIT_CWD: _, ...env } = Deno.env.toObject();
  const args = ["task", "--config", join(here, "deno.json"), "start", "no folder"];
  const options: Deno.CommandOptions = { args, cwd: site.root, env, clearEnv: true, stdin: "null" };
  const { code, stderr } = await new Deno.Command(Deno.execPath(), options).output();
  assertStringIncludes(decoder.decode(stderr), `http-server: there is no folder ${site.file("no folder")}.\n`);
  assertEquals(code, 2);
  if (isWindows) return; // where no signal reaches the server behind the task
  const shell = `exec env -u INIT_CWD ${task} "a folder" --port 0 --host 127.0.0.1`;
  await using server = await Served.start([], { cwd: site.root, shell });
  const text = await (await fetch(`${server.url}a.txt`)).text();
  assertEquals(await server.stop(), 0);
  assertEquals(text, "a");
  assertStringIncludes(server.startUp, `\nFolder   ${site.file("a folder")}\n`);
});

/** Reports whether a server can listen on an address of this machine. */
function canListen(hostname: string): boolean {
  try {
    Deno.listen({ hostname, port: 0 }).close();
    return true;
  } catch {
    return false;
  }
}

function exists(file: string): boolean {
  try {
    return Deno.statSync(file).isDirectory;
  } catch {
    return false;
  }
}

/** Arguments of `unshare` that run a command in a network of its own, in which `::` excludes IPv4. */
const IPV6_ONLY = ["--net", "sh", "-c", 'ip link set lo up && sysctl -qw net.ipv6.bindv6only=1 && exec "$@"', "sh"];
const canSeparateIpv6 = isLinux && (() => {
  try {
    const options: Deno.CommandOptions = { args: [...IPV6_ONLY, "true"], stdout: "null", stderr: "null" };
    return new Deno.Command("unshare", options).outputSync().success;
  } catch {
    return false;
  }
})();

Deno.test({
  name: "main() listens on IPv4 if `::` excludes it (net.ipv6.bindv6only=1)",
  ignore: !canSeparateIpv6,
  async fn() {
    await using site = await Site.lay({ "a.txt": "a" });
    const code = `
      const { main } = await import("./server.ts");
      const exit = main(["--quiet", ${JSON.stringify(site.root)}]);
      await Promise.race([exit, new Promise((resolve) => setTimeout(resolve))]);
      console.log(await (await fetch("http://127.0.0.1:8080/a.txt")).text());
      Deno.exit(0);`;
    const args = [...IPV6_ONLY, Deno.execPath(), "eval", "--quiet", "--no-check", code];
    const { stdout, stderr } = await new Deno.Command("unshare", { args, cwd: here }).output();
    const decoder = new TextDecoder();
    assertMatch(decoder.decode(stdout), /\na\n$/, decoder.decode(stderr));
  },
});

Deno.test("main() uses the next free port by default, but never instead of a port given with --port", async () => {
  for (const hostname of ["0.0.0.0", "127.0.0.1"]) {
    using taken = Deno.listen({ hostname, port: 0 });
    const { port } = taken.addr;
    assertEquals(await run(["--port", `${port}`]), {
      code: 1,
      stdout: "",
      stderr: `http-server: port ${port} is taken; choose another with --port, or --port 0 for any.\n`,
    });
  }

  // The default port is taken, either by this listener or by another program.
  using _default = tryListen(8080);
  await using server = await Served.start([]);
  assert(server.port > 8080, `${server.port}`);
  assertStringIncludes(server.startUp, `http://${LOCAL_NAME}:${server.port}/ (port 8080 is taken)\n`);
});

Deno.test("main() does not use a port at which another program would get its requests", async (t) => {
  const { listen, serve } = Deno;
  await each(t, ["0.0.0.0", "127.0.0.1"], (taken) => taken, async (taken) => {
    try {
      Deno.listen = ((options: Deno.ListenOptions) => { // as on macOS, where `::` would be free
        if (options.hostname === taken) throw new Deno.errors.AddrInUse();
        return listen({ ...options, port: 0 });
      }) as typeof listen;
      Deno.serve = (() => fail("the server started")) as typeof serve;
      const sentence = "http-server: port 1 is taken; choose another with --port, or --port 0 for any.\n";
      assertEquals(await runMain(["--port", "1"]), { code: 1, stdout: "", stderr: sentence });
    } finally {
      Object.assign(Deno, { listen, serve });
    }
  });
});

function tryListen(port: number): Deno.Listener | undefined {
  try {
    return Deno.listen({ hostname: "0.0.0.0", port });
  } catch {
    return undefined;
  }
}

Deno.test("main() listens on IPv6 and shows the address in brackets", async () => {
  await using site = await Site.lay({ "a.txt": "a" });
  await Promise.all([["::1", "[::1]"], ["[::1]", "[::1]"], ["[::]", "localhost"]].map(async ([host, shown]) => {
    await using server = await Served.start(["--port", "0", "--host", host!, site.root]);
    assertEquals(server.url, `http://${shown}:${server.port}/`);
    assertEquals(await (await fetch(`http://[::1]:${server.port}/a.txt`)).text(), "a");
  }));
});

Deno.test({
  name: "main() says that a network drive needs all permissions",
  ignore: !isWindows,
  async fn() {
    const folder = String.raw`\\server\share` + SEPARATOR; // the root of a network drive ends with a separator
    const stderr = `http-server: cannot read the folder ${folder}: ` +
      `Requires all access to "${folder}", run again with the --allow-all flag.\n`;
    assertEquals(await run([folder.slice(0, -1)]), { code: 1, stdout: "", stderr });
  },
});

Deno.test("main() shows the addresses on the network if it may see the interfaces", async () => {
  await using site = await Site.lay({});
  const permissions = [...PERMISSIONS, "--allow-sys=networkInterfaces"];
  const linesFor = async (...args: string[]) => {
    await using server = await Served.start(["--port", "0", ...args, site.root], { permissions });
    return server.startUp.replaceAll(`${server.port}`, "PORT").split("\n").filter((line) => /^[LN]/.test(line));
  };
  const lines = usableAddresses(Deno.networkInterfaces()).map((address) =>
    `Network  http://${address.includes(":") ? `[${address}]` : address}:PORT/base/`
  );
  assertEquals(await linesFor("--host", "0.0.0.0", "--base", "base"), [
    `Local    http://${LOCAL_NAME}:PORT/base/`,
    ...lines.filter((line) => !line.includes("[")),
  ]);
  if (canListen("::")) {
    assertEquals(await linesFor("--host", "::", "--base", "base"), ["Local    http://localhost:PORT/base/", ...lines]);
  }
  assertEquals(await linesFor("--host", "127.0.0.1"), ["Local    http://127.0.0.1:PORT/"]);
  const [address] = usableAddresses(Deno.networkInterfaces());
  if (address === undefined) return;
  assertEquals(await linesFor("--host", address), [`Network  http://${address}:PORT/`]);
});

Deno.test("usableAddresses() returns the addresses that other machines can reach, IPv4 first", () => {
  const interfaces = [
    ["lo", "127.0.0.1"],
    ["lo", "::1"],
    ["wlan0", "fe80::1"],
    ["wlan0", "fd00::1"],
    ["wlan0", "2001:db8::1"],
    ["wlan0", "192.168.1.20"],
    ["tun0", "10.0.0.7"],
    ["eth1", "169.254.3.4"],
    ["docker0", "172.17.0.1"],
    ["br-51ac", "172.18.0.1"],
  ].map(([name = "", address = ""]) => ({ name, address }));
  assertEquals(usableAddresses(interfaces), ["192.168.1.20", "10.0.0.7", "2001:db8::1"]);
});

Deno.test("main() reports a run-time error in one sentence with exit code 1", async (t) => {
  await using site = await Site.lay({ "cert.pem": "no certificate", "www/a.txt": "a" });
  const cert = site.file("cert.pem");
  const www = join(here, "www");
  const cases: [string[], string[], RegExp][] = [
    [
      [],
      [],
      /^http-server: cannot read the folder .*www: Requires read access to .*, run again with the --allow-read flag\.\n$/,
    ],
    [
      [],
      [`--allow-read=${www}`],
      /^http-server: cannot listen on 0\.0\.0\.0, port 8080: Requires net access to .*, run again with the --allow-net flag\.\n$/,
    ],
    [
      [site.root],
      ["--allow-net", `--allow-read=${www}`],
      /^http-server: cannot read the folder .*: Requires read access to .*\.\n$/,
    ],
    [["--host", "192.0.2.1"], PERMISSIONS, /^http-server: cannot listen on 192\.0\.2\.1, port 0: .*\.\n$/],
    [["--host", "127.0.0.1:80"], ["--allow-net=127.0.0.1", "--allow-read"], /^http-server: cannot listen on .*\.\n$/],
    [["--host", "no host"], PERMISSIONS, /^http-server: cannot listen on no host, port 0: .*\.\n$/],
    [
      ["--cert", cert, "--key", cert, www],
      ["--allow-net", `--allow-read=${www}`],
      /^http-server: --cert: Requires read access to .*cert\.pem.*, run again with the --allow-read flag\.\n$/,
    ],
    [
      ["--cert", cert, "--key", cert],
      PERMISSIONS,
      /^http-server: cannot listen on .*, port 0 with .*cert\.pem and .*cert\.pem: .*\.\n$/,
    ],
  ];
  const check = ([, , sentence]: typeof cases[number], { code, stdout, stderr }: Finished) => {
    assertMatch(stderr, sentence);
    assertEquals([code, stdout], [1, ""]);
  };
  const limited = cases.filter(([, permissions]) => permissions !== PERMISSIONS);
  await eachAtOnce(t, limited, ([args, permissions]) => [...permissions, ...args].join(" "), async (row) => {
    check(row, await run(row[0], row[1]));
  });
  const others = cases.filter((row) => !limited.includes(row)); // need no process with less permissions
  await each(
    t,
    others,
    ([args]) => args.join(" "),
    async (row) => check(row, await runMain(["--port", "0", ...row[0]])),
  );
  await t.step("an unreadable folder", async () => {
    if (!canBeDenied) return;
    await chmod(site.file("www"), 0);
    const { code, stderr } = await withoutRights(() => runMain(["--port", "0", site.file("www")]));
    assertMatch(stderr, /^http-server: cannot read the folder .*: .*\.\n$/);
    assertEquals(code, 1);
  });
});

Deno.test("main() prints that --live and --auth are on, and stops even if a page is listening", async () => {
  await using site = await Site.lay({ "index.html": "<p>page" });
  await using server = await Served.start(["--port", "0", "--live", "--auth", "me:secret", site.root]);
  const headers = basic("me:secret");
  assertEquals(await (await fetch(server.url)).text(), "401 Unauthorized\n");
  versionIn(await (await fetch(server.url, { headers: { ...headers, accept: "text/html" } })).text());
  const events = await fetch(`${server.url}.live-reload/events`, { headers });
  server.signal("SIGINT");
  assertMatch(await within(events.text(), "the end of the event stream"), /^retry:1000\n\n$/);
  const { code, stdout, stderr } = await server.finish();
  assertEquals([code, stderr], [0, ""]);
  assertStringIncludes(
    server.startUp,
    "\nOptions  --live --auth\nWithout --https, the password is sent in clear text.\n",
  );
  assert(!/secret|bWU6c2VjcmV0/.test(server.startUp + stdout), stdout);
});

Deno.test({
  name: "main() reports changes after a FIFO appeared and the root was replaced, and stops, with --live",
  ignore: !isLinux,
  async fn() {
    await using site = await Site.lay({ "root/index.html": "<p>page", "root/list/a.txt": "" });
    await using server = await Served.start(["--port", "0", "--live", site.file("root")]);
    const handler: Handler = ({ url, method, headers }) =>
      fetch(url.replace("http://localhost/", server.url), { method, headers });
    let page = await openPage({ handler }, "/", ["/list/", "/list/fifo"]);
    const change = async (fn: () => unknown) => {
      await fn();
      assert(await page.next());
      await page.cancel();
      page = await openPage({ handler }, "/", ["/list/", "/list/fifo"]);
    };
    await new Deno.Command("mkfifo", { args: [site.file("root/list/fifo")] }).output();
    await change(() => site.write({ "root/index.html": "<p>with a FIFO" }));
    await change(async () => {
      await Deno.remove(site.file("root"), { recursive: true });
      site.write({ "root/index.html": "<p>new root", "root/list/b.txt": "" });
    });
    await change(() => site.write({ "root/index.html": "<p>changed" }));
    await change(() => site.write({ "root/list/c.txt": "" }));
    server.signal("SIGTERM");
    assertEquals(await page.next(), undefined);
    assertEquals((await server.finish()).code, 0);
  },
});

Deno.test({
  name: "main() keeps running if it cannot write to stderr",
  ignore: !isLinux,
  async fn() {
    await using site = await Site.lay({ "index.html": "<p>page", "big.bin": "" });
    await using server = await Served.start(["--port", "0", "--host", "127.0.0.1", site.root], {
      shell: "exec $SERVER 2> /dev/full",
    });
    using connection = await beginDownload(site, server);
    const chunk = new Uint8Array(1 << 20);
    await connection.read(chunk);
    await Deno.truncate(site.file("big.bin"), 0); // the server reports an aborted response
    while (await within(connection.read(chunk).catch(() => null), "the end of the response") !== null);
    assertEquals(await (await fetch(server.url)).text(), "<p>page");
    assertEquals(await server.stop(), 0);
  },
});

const DOWNLOAD_SIZE = 64 << 20; // larger than the socket buffers

/** Requests a file that is larger than the socket buffers. */
async function beginDownload(site: Site, { port }: Served): Promise<Deno.Conn> {
  await Deno.truncate(site.file("big.bin"), DOWNLOAD_SIZE);
  const connection = await Deno.connect({ hostname: "127.0.0.1", port });
  await connection.write(encoder.encode("GET /big.bin HTTP/1.1\r\nHost: localhost\r\n\r\n"));
  return connection;
}

Deno.test("main() finishes a download before it stops and accepts no new connections", async () => {
  await using site = await Site.lay({ "big.bin": "" });
  // A second signal right after the first is the same one: `deno task` repeats a Ctrl-C of the terminal.
  const limits = { sameSignalTime: 60_000, stopTime: 60_000 };
  await using server = await Served.start(["--port", "0", "--host", "127.0.0.1", site.root], { limits });
  using connection = await beginDownload(site, server);
  const chunk = new Uint8Array(1 << 20);
  let received = await connection.read(chunk) ?? 0;
  const head = decoder.decode(chunk.subarray(0, received)).indexOf("\r\n\r\n") + 4;
  server.signal("SIGTERM");
  await server.isClosed();
  server.signal("SIGINT");
  for (let length; (length = await connection.read(chunk)) !== null;) received += length;
  assertEquals(received - head, DOWNLOAD_SIZE);
  const { code, stdout } = await server.finish();
  assertEquals(code, 0);
  assertStringIncludes(stdout, `"GET /big.bin HTTP/1.1" 200 ${DOWNLOAD_SIZE} `);
});

Deno.test("main() stops immediately on the second signal", async () => {
  await using site = await Site.lay({ "big.bin": "" });
  const limits = { sameSignalTime: 0, stopTime: 60_000 };
  await using server = await Served.start(["--port", "0", "--host", "127.0.0.1", site.root], { limits });
  using connection = await beginDownload(site, server);
  await connection.read(new Uint8Array(1));
  server.signal("SIGINT");
  await server.isClosed();
  server.signal("SIGINT");
  assertEquals((await server.finish()).code, 130);
});

Deno.test("main() stops even if a client stalls its download", async () => {
  await using site = await Site.lay({ "big.bin": "" });
  const limits = { stopTime: 50 };
  await using server = await Served.start(["--port", "0", "--host", "127.0.0.1", site.root], { limits });
  using connection = await beginDownload(site, server);
  await connection.read(new Uint8Array(1));
  server.signal("SIGTERM");
  assertEquals((await server.finish()).code, 0);
});

Deno.test("main() refuses foreign hosts to clients on the same machine, except those given with --allow-host", async () => {
  await using site = await Site.lay({ "a.txt": "a" });
  const starting = Served.start([
    ...["--port", "0", "--host", "127.0.0.1", "--allow-host", "evil.example", "--allow-host=b.example", site.root],
  ]);
  const mapped = canListen("::ffff:127.0.0.1") ? ["::ffff:127.0.0.1"] : []; // not on Windows
  for (const hostname of ["127.0.0.1", "localhost", "LOCALHOST", ...mapped, "0.0.0.0"]) {
    const handler = createHandler({ root: site.root, allowHosts: [hostname] });
    await using server = Deno.serve({ port: 0, hostname, onListen() {} }, handler);
    const address = hostname.toLowerCase() === "localhost" ? "localhost" : "127.0.0.1"; // localhost may be ::1
    const { status } = await rawGet(server.addr.port, "/a.txt", "Host: evil.example\r\n", "GET", address);
    assertEquals(status, 403, hostname);
  }
  await using server = await starting;
  for (const [host, status] of [["evil.example", 200], ["b.example", 200], ["c.example", 403]] as const) {
    assertEquals((await rawGet(server.port, "/a.txt", `Host: ${host}\r\n`)).status, status, host);
  }
});

Deno.test("main() stops even if a client has sent an incomplete request or none", async () => {
  await using server = await Served.start(["--port", "0", "--host", "127.0.0.1"], { limits: { stopTime: 50 } });
  using _idle = await RawClient.connect(server.port);
  using client = await RawClient.connect(server.port);
  await client.send("POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\nthe beginning");
  assertEquals((await client.receive())?.status, 405);
  server.signal("SIGTERM");
  assertEquals((await server.finish()).code, 0);
});

Deno.test({
  name: "main() accepts connections again after it runs out of file descriptors",
  ignore: !isLinux,
  async fn() {
    await using site = await Site.lay({ "a.txt": "a" });
    await using server = await Served.start(["-q", "-p", "0", site.root], { shell: "ulimit -n 64; exec $SERVER" });
    const clients: (RawClient | undefined)[] = [];
    for (let count = 0; count < 100; count++) {
      clients.push(await RawClient.connect(server.port).catch(() => undefined));
    }
    for (const client of clients) client?.[Symbol.dispose]();
    let response: Response | undefined;
    await until(async () => {
      response = await fetch(`${server.url}a.txt`).catch(() => undefined);
      return response !== undefined;
    }, "the server to accept connections again");
    assertEquals(await response?.text(), "a");
    server.signal("SIGTERM");
    const { code, stderr } = await server.finish();
    assertMatch(stderr, /^http-server: cannot accept a connection: /);
    assertEquals(code, 0);
  },
});

Deno.test("main() reports no more than once per interval that it can't accept connections", async (t) => {
  const { serve, addSignalListener } = Deno;
  const rows = [{ reportInterval: 60_000, reports: 1 }, { reportInterval: -1, reports: 5 }];
  await each(t, rows, ({ reportInterval }) => reportInterval, async ({ reportInterval, reports }) => {
    let stop = () => {};
    let count = 0;
    try {
      Deno.addSignalListener = (_, listener) => stop = listener;
      Deno.serve = (() => {
        if (++count === 5) stop();
        const addr = { transport: "tcp", hostname: "127.0.0.1", port: 1 };
        return { addr, finished: Promise.reject(new Error("too many open files")), shutdown() {} };
      }) as unknown as typeof serve;
      const limits = { ...LIMITS, retryDelay: 0, sameSignalTime: 0, stopTime: 0, flushTime: 0, reportInterval };
      const { code, stderr } = await runMain(["--quiet", here], limits);
      const report = "http-server: cannot accept a connection: too many open files\n";
      assertEquals([code, count, stderr], [0, 5, report.repeat(reports)]);
      await new Promise((resolve) => setTimeout(resolve)); // after the timers of the stop
    } finally {
      Object.assign(Deno, { serve, addSignalListener });
    }
  });
});

Deno.test("main() keeps running if a folder disappears while it is listed", async () => {
  await using site = await Site.lay({ "race/p/c/a.txt": "a" });
  await using server = await Served.start(["--port", "0", "--host", "127.0.0.1", "-q", site.root]);
  const [p, q] = [site.file("race/p"), site.file("race/q")];
  // Windows renames no folder in which another one is open.
  const move = (from: string, to: string) =>
    until(() => Deno.rename(from, to).then(() => true, () => false), "a folder to be renamed");
  let isDone = false;
  const clients = Array.from({ length: 4 }, async () => {
    while (!isDone) await (await fetch(`${server.url}race/p/c/`)).body?.cancel();
  });
  for (let count = 0; count < 2000; count++) {
    await move(p, q);
    await move(q, p);
  }
  isDone = true;
  await Promise.all(clients);
  assertEquals(await (await fetch(`${server.url}race/p/c/a.txt`)).text(), "a");
});

Deno.test("main() keeps running if the log reader disconnects", async () => {
  await using site = await Site.lay({ "a.txt": "a" });
  await using server = await Served.start(["--port", "0", site.root]);
  await server.closeOutput();
  for (let count = 0; count < 20; count++) assertEquals(await (await fetch(`${server.url}a.txt`)).text(), "a");
  assertEquals(await server.stop(), 0);
});

Deno.test({
  name: "main() serves HTTPS and HTTP/2 with a certificate",
  ignore: isOldDeno, // whose HTTP/2 client trusts no certificate of ours
  async fn() {
    const { cert, key } = await makeCertificate();
    await using site = await Site.lay({
      "a.txt": "a",
      "big.bin": "b".repeat(3 << 20),
      "sub/x": "x",
      ".tls/cert.pem": cert,
      ".tls/key.pem": key,
      ".tls/other.pem": (await makeCertificate()).key,
    });
    const files = ["--cert", site.file(".tls/cert.pem"), "--key", site.file(".tls/key.pem")];
    const starting = Served.start(["--port", "0", "--auth", "me:secret", ...files, site.root]);
    await using server = await Served.start(["--port", "0", ...files, site.root]);
    await using withPassword = await starting;
    assertEquals(server.url, `https://localhost:${server.port}/`);

    using client = Deno.createHttpClient({ caCerts: [cert], http2: false });
    assertEquals(await (await fetch(`${server.url}a.txt`, { client })).text(), "a");

    const session = http2.connect(server.url, { ca: cert });
    const request = (path: string, headers: Record<string, string> = {}) =>
      new Promise<[number, string | undefined, string]>((resolve, reject) => {
        const stream = session.request({ ":path": path, ...headers });
        let head: Record<string, unknown> = {};
        let text = "";
        stream.on("response", (headers) => head = headers);
        stream.on("data", (chunk) => text += chunk);
        stream.on("end", () => resolve([Number(head[":status"]), head.location as string | undefined, text]));
        stream.on("error", reject);
        stream.end();
      });
    assertEquals(await request("/a.txt"), [200, undefined, "a"]);
    assertEquals(await request("/sub?q"), [301, "/sub/?q", ""]);
    assertEquals(await request("/a.txt", { range: "bytes=5-" }), [416, undefined, "416 Range Not Satisfiable\n"]);
    // Extra bytes would be an error over HTTP/2, even with a Host header as in HTTP/1.
    assertEquals(await request("/big.bin", { range: "bytes=5-10", host: "localhost" }), [206, undefined, "bbbbbb"]);
    assertEquals(await request("/%2e%2e/%2e%2e/etc/passwd"), [404, undefined, "404 Not Found\n"]);
    await new Promise<void>((resolve) => session.close(resolve));
    await until(() => server.log.includes("passwd"), "the log of all requests");
    assertMatch(
      server.log,
      /^127\.0\.0\.1 - - \[.*\] "GET \/a\.txt HTTP\/1\.1" 200 1 .*\n.* "GET \/a\.txt HTTP\/2\.0" 200 1 /,
    );

    assertEquals((await fetch(withPassword.url, { client, headers: basic("me:secret") })).status, 200);
    assert(withPassword.startUp.endsWith("\nOptions  --auth --cert\n"), withPassword.startUp);

    const other = ["--cert", site.file(".tls/cert.pem"), "--key", site.file(".tls/other.pem")];
    const mismatch = await within(runMain(["--port", "0", ...other, site.root]), "the refusal of a wrong key");
    assertMatch(
      mismatch.stderr,
      /^http-server: cannot listen on .*, port 0 with .*cert\.pem and .*other\.pem: .*(?:match|Mismatch).*\.\n$/,
    );
    assertEquals(mismatch.code, 1);
  },
});

Deno.test({
  name: "main() serves HTTPS and HTTP/2 with its own certificate",
  ignore: isOldDeno, // whose HTTP/2 client trusts no certificate of ours
  async fn() {
    await using site = await Site.lay({ "a.txt": "a" });
    const args = [
      "--port",
      "0",
      "--host",
      "0.0.0.0",
      "--https",
      "--allow-host",
      ".test.example",
      "--auth",
      "me:secret",
    ];
    await using server = await Served.start([...args, site.root]);
    assertEquals(server.url, `https://localhost:${server.port}/`);
    assertEquals(server.startUp.split("\n").slice(3), ["Options  --https --allow-host --auth", ""]);

    const connection = tls.connect({ port: server.port, host: "127.0.0.1", rejectUnauthorized: false });
    await within(new Promise((resolve) => connection.on("secureConnect", resolve)), "a TLS connection");
    const { raw } = connection.getPeerCertificate();
    connection.destroy();
    const cert = `-----BEGIN CERTIFICATE-----\n${raw.toBase64()}\n-----END CERTIFICATE-----\n`;
    assertStringIncludes(new X509Certificate(cert).subjectAltName!, "DNS:test.example, DNS:*.test.example");

    using client = Deno.createHttpClient({ caCerts: [cert], http1: false, http2: true });
    for (const host of ["localhost", "127.0.0.1"]) {
      const response = await fetch(`https://${host}:${server.port}/a.txt`, { client, headers: basic("me:secret") });
      assertEquals(await response.text(), "a");
    }
    const other = await makeCertificate();
    using stranger = Deno.createHttpClient({ caCerts: [other.cert] });
    await assertRejects(() => fetch(server.url, { client: stranger }), TypeError);
  },
});

Deno.test("main() refuses to start if the private key is in the served folder", async () => {
  const { cert, key } = await makeCertificate();
  await using site = await Site.lay({ "www/.tls/key.pem": key, "www/key.pem": key, "cert.pem": cert });
  const cases = [["www/key.pem", "www"], ["www/.tls/key.pem", "www", "--dotfiles"]];
  if (HAS_LINKS) {
    link("www", site.file("link"));
    cases.push(["link/key.pem", "www"], ["www/key.pem", "link"]);
  }
  for (const [name, root, ...more] of cases) {
    const file = site.file(name!);
    const args = ["--cert", site.file("cert.pem"), "--key", file, ...more, site.file(root!)];
    const { code, stderr } = await runMain([...NOWHERE, ...args]);
    const sentence = `every client could download the key ${file}; move it out of the served folder.`;
    assertEquals([code, stderr], [2, `http-server: ${sentence}\n`]);
  }
});

Deno.test({
  name: "main() writes only requests to a file if a person sees stderr",
  ignore: !isLinux,
  async fn() {
    await using site = await Site.lay({ "a.txt": "a" });
    const log = site.file(".access.log");
    const shell = `exec script --quiet --return --command "exec $SERVER > '${log}'" /dev/null`;
    await using server = await Served.start(["--port", "0", "--host", "127.0.0.1", site.root], { shell });
    assertStringIncludes(server.startUp, `http://127.0.0.1:${server.port}/`);
    await (await fetch(`http://127.0.0.1:${server.port}/a.txt`)).text();
    await until(async () => (await Deno.readTextFile(log)).endsWith("\n"), "the line of the request");
    assertMatch(await Deno.readTextFile(log), /^127\.0\.0\.1 - - \[.*\] "GET \/a\.txt HTTP\/1\.1" 200 1 .*\n$/);
  },
});

Deno.test({
  name: "main() prints in color on a terminal",
  ignore: !isLinux,
  async fn() {
    await using site = await Site.lay({ "a.txt": "a", "big.bin": "" });
    const shell = 'exec env -u NO_COLOR script --quiet --return --command "exec $SERVER" /dev/null';
    const limits = { sameSignalTime: 50 };
    await using server = await Served.start(["--port", "0", "--host", "127.0.0.1", site.root], { limits, shell });
    // deno-lint-ignore no-control-regex -- the test matches color codes
    assertEquals(server.startUp.replace(/\x1b\[\d*m/g, "").split("\r\n"), [
      `Local    http://127.0.0.1:${server.port}/`,
      `Version  http-server ${VERSION}`,
      `Folder   ${site.root}`,
      "Press Ctrl-C to stop.",
      "",
    ]);
    assertStringIncludes(server.startUp, "\x1b[1mhttp://");
    for (const path of ["a.txt", "nothing"]) await (await fetch(`http://127.0.0.1:${server.port}/${path}`)).text();
    await until(() => server.log.includes("/nothing"), "the line of /nothing in the log");
    const time = "\\d\\d:\\d\\d:\\d\\d";
    assertMatch(
      server.log,
      new RegExp(
        `^${time} 127\\.0\\.0\\.1 GET /a\\.txt \x1b\\[32m200\x1b\\[0m 1 \\d+ms\r\n` +
          `${time} 127\\.0\\.0\\.1 GET /nothing \x1b\\[33m404\x1b\\[0m 14 \\d+ms\r\n$`,
      ),
    );

    using connection = await beginDownload(site, server);
    await connection.read(new Uint8Array(1));
    const child = await Deno.readTextFile(`/proc/${server.pid}/task/${server.pid}/children`);
    Deno.kill(-Number(child), "SIGINT"); // the process group, as a terminal does
    const explanation = "\r\n\r\nFinishing responses in flight; press Ctrl-C again to stop now.\r\n";
    await until(() => server.log.includes(explanation), "the line about responses in flight");
  },
});

/** Another name than `localhost` that leads to a loopback address of this machine, if there is one. */
const LOOPBACK_NAME = [Deno.hostname(), "ip6-localhost", "ip6-loopback"].find((name) => {
  try {
    using listener = Deno.listen({ hostname: name, port: 0 });
    return name.toLowerCase() !== "localhost" && /^127\.|^::1$/.test(listener.addr.hostname);
  } catch {
    return false;
  }
});

Deno.test({
  name: "main() allows the name given with --host, and no other name if it leads to a loopback address",
  ignore: LOOPBACK_NAME === undefined,
  async fn() {
    await using site = await Site.lay({ "a.txt": "a" });
    await using server = await Served.start(["--port", "0", "--host", LOOPBACK_NAME!, site.root]);
    for (const [host, status] of [[LOOPBACK_NAME!, 200], ["localhost", 200], ["evil.example", 403]] as const) {
      using connection = await Deno.connect({ hostname: LOOPBACK_NAME!, port: server.port });
      await connection.write(encoder.encode(`GET /a.txt HTTP/1.1\r\nHost: ${host}\r\nConnection: close\r\n\r\n`));
      const start = new Uint8Array(100);
      await connection.read(start);
      assertStringIncludes(decoder.decode(start), `HTTP/1.1 ${status} `, host);
    }
  },
});

Deno.test("main() refuses to start if a certificate file in the served folder contains a private key", async () => {
  const { cert, key } = await makeCertificate();
  await using site = await Site.lay({
    "key.pem": key,
    "www/both.pem": `${cert}${key}`,
    "www/old.pem": `${cert}${key.replaceAll("PRIVATE KEY", "RSA PRIVATE KEY")}`,
    "www/.tls/both.pem": `${cert}${key}`,
    "both.pem": `${cert}${key}`,
    "www/cert.pem": cert,
  });
  const keyFile = site.file("key.pem");
  const cases: [string, string[], number][] = [
    ["www/both.pem", [], 2],
    ["www/old.pem", [], 2],
    ["www/.tls/both.pem", ["--dotfiles"], 2],
    ["www/.tls/both.pem", [], 1],
    ["both.pem", [], 1],
    ["www/cert.pem", [], 1],
  ];
  for (const [name, more, expected] of cases) {
    const file = site.file(name);
    const { code, stderr } = await runMain([...NOWHERE, "--cert", file, "--key", keyFile, ...more, site.file("www")]);
    assertEquals(code, expected, `${name} ${more}: ${stderr}`);
    assertMatch(
      stderr,
      expected === 1 ? /^http-server: cannot listen on / : /^http-server: every client could download /,
    );
  }
});

// Hostile requests ---------------------------------------------------------------------------------------------------

Deno.test({
  name: "handler() survives 6,000 hostile requests without a 5xx, a leak, a hang or an open file",
  ignore: !CAN_SEE_OPEN_FILES || !isWindows && !canBeDenied,
  async fn() {
    const statuses = await fuzz({ requests: 6000, seed: 1 });
    // Check that the requests reach every kind of response.
    for (const status of [200, 204, 206, 301, 304, 400, 403, 404, 405, 412, 416]) {
      assert((statuses.get(status) ?? 0) > 5, `${status}: ${statuses.get(status)}`);
    }
  },
});
