/** Covers every row of what http-server promises; run it with `deno task test`. */

import { assert, assertEquals, assertMatch, assertStringIncludes, assertThrows, fail } from "@std/assert";
import { dirname, fromFileUrl, join } from "@std/path";
import process from "node:process";
import http2 from "node:http2";
import { makeCertificate } from "./.ci/certificate.ts";
import { brotliCompressSync, brotliDecompressSync, gunzipSync, gzipSync } from "node:zlib";
import {
  acceptedEncodings,
  createHandler,
  evaluatePreconditions,
  type Handler,
  helpText,
  isHidden,
  main,
  Memory,
  type Options,
  parseRange,
  resolvePath,
  VERSION,
} from "./server.ts";

// Fixtures ----------------------------------------------------------------------------------------------------------

/** A file's text or bytes, `{ link }` for a symbolic link, or null for an empty folder. */
type Tree = Record<string, string | Uint8Array | { link: string } | null>;

interface Site extends AsyncDisposable {
  root: string;
}

/** Lays a tree in a new folder that anyone may enter. */
async function lay(tree: Tree): Promise<Site> {
  // The real path, because some systems reach their temporary folder through a link.
  const root = await Deno.realPath(await Deno.makeTempDir({ prefix: "http-server-test-" }));
  await chmod(root, 0o755);
  const site = { root, [Symbol.asyncDispose]: () => Deno.remove(root, { recursive: true }) };
  await add(site, tree);
  return site;
}

/** Adds a tree to a folder. */
async function add({ root }: Site, tree: Tree): Promise<void> {
  for (const [name, content] of Object.entries(tree)) {
    const file = join(root, name);
    await Deno.mkdir(content === null ? file : dirname(file), { recursive: true });
    if (typeof content === "string") await Deno.writeTextFile(file, content);
    else if (content instanceof Uint8Array) await Deno.writeFile(file, content);
    else if (content !== null) await Deno.symlink(content.link, file);
  }
}

async function chmod(file: string, mode: number): Promise<void> {
  if (!isWindows) await Deno.chmod(file, mode);
}

const isWindows = Deno.build.os === "windows";
const isLinux = Deno.build.os === "linux";

/** Runs a function with the rights of a user that has none, for root may read everything. */
async function withoutRights<T>(fn: () => Promise<T>): Promise<T> {
  if (Deno.uid() !== 0) return await fn();
  process.seteuid!(65534);
  try {
    return await fn();
  } finally {
    process.seteuid!(0);
  }
}

interface Answer {
  status: number;
  headers: Headers;
  text: string;
}

/** Asks a handler; the path goes through the URL parser, which tidies it: hostile ones take {@linkcode RawClient}. */
async function ask(handler: Handler, path: string, init: RequestInit = {}): Promise<Answer> {
  const response = await handler(new Request(`http://localhost${path}`, init));
  return { status: response.status, headers: response.headers, text: await response.text() };
}

function get(handler: Handler, path: string, headers?: Record<string, string>): Promise<Answer> {
  return ask(handler, path, { headers });
}

/** A server in this process on any free port. */
function start(what: Partial<Options> | Handler) {
  const handler = typeof what === "function" ? what : createHandler(what);
  const server = Deno.serve({ port: 0, hostname: "127.0.0.1", onListen() {} }, handler);
  const { port } = server.addr as Deno.NetAddr;
  return { port, server, [Symbol.asyncDispose]: () => server.shutdown() };
}

const encoder = new TextEncoder();
const decoder = new TextDecoder();

/** A client that sends bytes as they are and reads one answer after the other from the same connection. */
class RawClient implements Disposable {
  #connection: Deno.Conn;
  #buffer = new Uint8Array();

  private constructor(connection: Deno.Conn) {
    this.#connection = connection;
  }

  static async connect(port: number): Promise<RawClient> {
    return new RawClient(await Deno.connect({ hostname: "127.0.0.1", port }));
  }

  async send(text: string | Uint8Array): Promise<void> {
    const bytes = typeof text === "string" ? encoder.encode(text) : text;
    for (let sent = 0; sent < bytes.length;) sent += await this.#connection.write(bytes.subarray(sent));
  }

  /** Returns the next answer, or undefined where the server closed the connection instead. */
  async receive(method = "GET"): Promise<Answer | undefined> {
    let end;
    while ((end = indexOf(this.#buffer, "\r\n\r\n")) < 0) if (!await this.#read()) return undefined;
    const [statusLine, ...fields] = decoder.decode(this.#buffer.subarray(0, end)).split("\r\n");
    this.#buffer = this.#buffer.subarray(end + 4);
    const status = Number(/ (\d{3}) /.exec(statusLine!)?.[1]);
    const headers = new Headers();
    for (const field of fields) headers.append(field.slice(0, field.indexOf(":")), field.slice(field.indexOf(":") + 1));
    const hasBody = method !== "HEAD" && status !== 204 && status !== 304;
    // What the runtime refuses by itself comes without a length, and ends the connection.
    const length = hasBody
      ? Number(headers.get("content-length") ?? (status === 400 ? 0 : fail("no Content-Length")))
      : 0;
    while (this.#buffer.length < length) if (!await this.#read()) return undefined;
    const text = decoder.decode(this.#buffer.subarray(0, length));
    this.#buffer = this.#buffer.subarray(length);
    return { status, headers, text };
  }

  async #read(): Promise<boolean> {
    const chunk = new Uint8Array(65536);
    const length = await this.#connection.read(chunk).catch(() => null);
    if (length === null) return false;
    const joined = new Uint8Array(this.#buffer.length + length);
    joined.set(this.#buffer);
    joined.set(chunk.subarray(0, length), this.#buffer.length);
    this.#buffer = joined;
    return true;
  }

  [Symbol.dispose](): void {
    this.#connection.close();
  }
}

function indexOf(bytes: Uint8Array, text: string): number {
  return new TextDecoder("latin1").decode(bytes).indexOf(text);
}

/** Sends one request over a connection of its own. */
async function rawGet(port: number, target: string, fields = "Host: localhost\r\n", method = "GET"): Promise<Answer> {
  using client = await RawClient.connect(port);
  await client.send(`${method} ${target} HTTP/1.1\r\n${fields}Connection: close\r\n\r\n`);
  return await client.receive(method) ?? fail(`no answer to ${target}`);
}

/** How many files of a folder this process has open. */
function openFiles(root: string): number {
  let count = 0;
  for (const { name } of Deno.readDirSync("/proc/self/fd")) {
    try {
      if (Deno.readLinkSync(`/proc/self/fd/${name}`).startsWith(root)) count++;
    } catch {
      // Closed since the folder was read.
    }
  }
  return count;
}

// 1. Path -----------------------------------------------------------------------------------------------------------

Deno.test("resolvePath() decodes once, resolves dots, and refuses what no path can be", () => {
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

Deno.test("isHidden() finds dotfiles anywhere in a path, apart from /.well-known", () => {
  for (
    const path of [
      "/.env",
      "/a/.git/config",
      "/.git/",
      "/...",
      "/.well-known/.env",
      "/a/.well-known/x",
      "/.well-knownx",
    ]
  ) {
    assert(isHidden(path), path);
  }
  for (const path of ["/", "/a.b", "/a./b", "/.well-known", "/.well-known/", "/.well-known/acme/x"]) {
    assert(!isHidden(path), path);
  }
});

Deno.test("handler() answers folders with index.html, listing, or 404", async () => {
  await using site = await lay({
    "index.html": "root",
    "linked/real.html": "linked index",
    "linked/index.html": { link: "real.html" },
    "bare/a.txt": "a",
    "odd/index.html/x": "an index that is a folder",
    "leak/index.html": { link: "/etc/passwd" },
  });
  const handler = createHandler({ root: site.root });
  assertEquals((await get(handler, "/")).text, "root");
  assertEquals((await get(handler, "/linked/")).text, "linked index");
  for (const folder of ["/bare/", "/odd/", "/leak/"]) {
    const { status, headers, text } = await get(handler, folder);
    assertEquals([status, headers.get("content-type")], [200, "text/html; charset=UTF-8"], folder);
    assertStringIncludes(text, `Index of`);
    assertEquals(headers.get("accept-ranges"), null);
  }
  assertStringIncludes((await get(handler, "/bare/")).text, `href="./a.txt"`);
  assertStringIncludes((await get(handler, "/odd/")).text, `href="./index.html/"`);

  const unlisted = createHandler({ root: site.root, listing: false });
  assertEquals((await get(unlisted, "/bare/")).status, 404);
  assertEquals((await get(unlisted, "/")).status, 200);
});

Deno.test("handler() redirects to the URL that a file or folder has, without a host", async () => {
  await using site = await lay({
    "sub/index.html": "sub",
    "a.txt": "a",
    "odd é?#%/a.txt": "odd",
    "evil.com/a.txt": "a",
  });
  const handler = createHandler({ root: site.root });
  const cases: [string, string][] = [
    ["/sub", "/sub/"],
    ["/sub?q=1&r=%20/", "/sub/?q=1&r=%20/"],
    ["/a.txt/", "/a.txt"],
    ["/a.txt/?q", "/a.txt?q"],
    ["/odd%20%C3%A9%3F%23%25", "/odd%20%C3%A9%3F%23%25/"],
  ];
  for (const [path, location] of cases) {
    const { status, headers, text } = await get(handler, path);
    assertEquals([status, headers.get("location"), text], [301, location, ""], path);
  }
  await using server = start({ root: site.root });
  for (
    const target of ["//evil.com", "///evil.com", "/./evil.com", "http://evil.com/evil.com"]
  ) {
    const { status, headers } = await rawGet(server.port, target, "Host: evil.com\r\n");
    assertEquals([status, headers.get("location")], [301, "/evil.com/"], target);
  }
  assertEquals((await rawGet(server.port, "//evil.com/a.txt/..", "Host: evil.com\r\n")).status, 200);
  assertEquals((await rawGet(server.port, "/a.txt/.?q")).headers.get("location"), "/a.txt?q");
  const { headers } = await rawGet(server.port, "/sub?é\u{80}");
  assertEquals(headers.get("location"), "/sub/?%C3%A9%C2%80");
});

Deno.test("handler() answers a clean URL with the page, and the page's own URL as well", async () => {
  await using site = await lay({ "about.html": "about", "both.html": "page", "both/index.html": "folder" });
  const handler = createHandler({ root: site.root });
  for (const path of ["/about", "/about.html"]) {
    const { status, text, headers } = await get(handler, path);
    assertEquals([status, text, headers.get("content-type")], [200, "about", "text/html; charset=UTF-8"], path);
  }
  assertEquals((await get(handler, "/both/")).text, "folder");
  assertEquals((await get(handler, "/both")).status, 301);
  assertEquals((await get(handler, "/about/")).status, 404);
});

/** Names that need care in a URL, in HTML, or in both; those that Windows can't store are left out there. */
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

Deno.test("handler() serves odd names, and its listing links to each", async () => {
  await using site = await lay(Object.fromEntries(ODD_NAMES.map((name) => [`sub/${name}`, name])));
  const handler = createHandler({ root: site.root });
  for (const name of ODD_NAMES) {
    const { status, text } = await get(handler, `/sub/${encodeURIComponent(name)}`);
    assertEquals([status, text], [200, name]);
  }
  const listing = (await get(handler, "/sub/")).text;
  assert(!listing.includes("<script>"), "a name became markup");
  const links = [...listing.matchAll(/<td>\s*<a href="([^"]*)"/g)].map(([, href]) => href!.replaceAll("&#39;", "'"));
  const opened = [];
  for (const link of links.filter((link) => link !== "..")) {
    const { pathname } = new URL(link, "http://localhost/sub/");
    opened.push((await get(handler, pathname)).text);
  }
  assertEquals(opened.sort(), [...ODD_NAMES].sort());
});

Deno.test("handler() answers 400 to malformed targets and hosts, never what lies elsewhere", async (t) => {
  await using site = await lay({ "x": "x", "path/x": "path", "index.html": "root" });
  const handler = createHandler({ root: site.root });
  await using server = start(handler);
  for (
    const target of ["/%", "/%zz", "/%ff", "/%00", "/x%00.html", "/%5C", "/..%5C..%5Cx", "/a\\x", "/%c0%ae%c0%ae/"]
  ) {
    await t.step(target, async () => assertEquals((await rawGet(server.port, target)).status, 400));
  }
  // The page that such a Host would lead to is in memory.
  await whenSettled(() => get(handler, "/path/x"));
  for (const host of ["bad host", "a, b", "h/path", "u@h", "h?q", "h#f", "a\\b", "h:x", "[::1", "h\u{e9}", "<h>"]) {
    await t.step(`Host: ${host}`, async () => {
      const { status, text } = await rawGet(server.port, "/x", `Host: ${host}\r\n`);
      assertEquals([status, text], [400, "400 Bad Request\n"]);
    });
  }
  for (const host of ["h", "h:80", "h:", "[::1]:80", "127.0.0.1:8080", "a_b.example", "xn--e1afmkfd.example", ""]) {
    await t.step(`Host: ${host}`, async () => {
      assertEquals((await rawGet(server.port, "/x", `Host: ${host}\r\n`)).text, "x");
    });
  }
  await t.step("without a Host, as HTTP/1.0 has none", async () => {
    assertEquals((await rawGet(server.port, "/x", "")).text, "x");
  });
  await t.step("absolute-form", async () => {
    assertEquals((await rawGet(server.port, "http://x/path/x")).text, "path");
    assertEquals((await rawGet(server.port, "http://x")).text, "root");
  });
});

Deno.test("handler() stays inside the root, however the path is spelled", async (t) => {
  await using outside = await lay({
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
    "http://x/../secret.txt",
    "/....//secret.txt",
    "/..;/secret.txt",
    "/%252e%252e/secret.txt",
    "/file:///etc/passwd",
    outside.root + "/secret.txt",
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

Deno.test("handler() hides dotfiles, and does not tell whether they exist", async () => {
  await using site = await lay({
    ".env": "SECRET",
    ".git/config": "SECRET",
    ".git/404.html": "SECRET",
    "sub/.hidden/a.txt": "SECRET",
    ".env.html": "SECRET",
    ".well-known/acme/token": "token",
    ".well-known/.env": "SECRET",
    "404.html": "not found",
  });
  await using bare = await lay({ ".well-known.html": "SECRET" });
  assertEquals((await get(createHandler({ root: bare.root }), "/.well-known")).status, 404);
  for (const options of [{}, { spa: true }]) {
    const handler = createHandler({ root: site.root, ...options });
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
    assertStringIncludes((await get(handler, "/.well-known/acme/")).text, "./token");
    const listing = (await get(handler, "/.well-known/")).text;
    assertStringIncludes(listing, "./acme/");
    assert(!listing.includes(".env"), "the listing of .well-known shows dotfiles");
    assert(!/\.env|\.git/.test((await get(handler, "/")).text), "the listing shows dotfiles");
  }
  const open = createHandler({ root: site.root, dotfiles: true });
  assertEquals((await get(open, "/.env")).text, "SECRET");
  assertEquals((await get(open, "/.git/config")).text, "SECRET");
  assertStringIncludes((await get(open, "/")).text, "./.git/");
});

Deno.test("handler() answers 404 to paths that no disk can have", async () => {
  await using site = await lay({ "file.txt": "x" });
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

Deno.test({
  name: "handler() never opens a FIFO, a socket or a device",
  ignore: isWindows,
  async fn() {
    await using site = await lay({ "sub/a.txt": "a" });
    const { success } = await new Deno.Command("mkfifo", {
      args: [join(site.root, "fifo"), join(site.root, "sub/index.html")],
    }).output();
    assert(success, "mkfifo failed");
    using _socket = Deno.listen({ transport: "unix", path: join(site.root, "socket") });
    await Deno.symlink("/dev/zero", join(site.root, "device"));
    const handler = createHandler({ root: site.root, symlinks: true });
    for (const path of ["/fifo", "/socket", "/device", "/fifo/"]) {
      for (const method of ["GET", "HEAD"]) assertEquals((await ask(handler, path, { method })).status, 404, path);
    }
    assertEquals((await get(handler, "/sub/")).status, 200, "an index that is a FIFO is none");
    assertEquals((await get(handler, "/")).status, 200, "a listing reads none of them");
  },
});

/** Fields whose answers would tell the tag, the age or the size of a file. */
const TELLING_FIELDS: Record<string, string>[] = [
  { "if-none-match": "*" },
  { "if-match": "x" },
  { "if-unmodified-since": "Sun, 06 Nov 1994 08:49:37 GMT" },
  { range: "bytes=999999-" },
];

Deno.test({
  name: "handler() answers 403 to what the server may not read",
  ignore: isWindows,
  async fn() {
    await using site = await lay({
      "file.txt": "x",
      "folder/a.txt": "x",
      "noindex/index.html": "x",
      "enterable/a.txt": "a",
      "open.txt": "open",
    });
    for (const name of ["file.txt", "folder", "noindex/index.html"]) await chmod(join(site.root, name), 0);
    await chmod(join(site.root, "enterable"), 0o111);
    const handler = createHandler({ root: site.root });
    await withoutRights(async () => {
      for (const path of ["/file.txt", "/folder/", "/folder/a.txt", "/folder/nothing", "/noindex/", "/enterable/"]) {
        for (const method of ["GET", "HEAD"]) {
          const { status, text } = await ask(handler, path, { method });
          assertEquals([status, text], [403, method === "GET" ? "403 Forbidden\n" : ""], `${method} ${path}`);
        }
        for (const fields of TELLING_FIELDS) assertEquals((await get(handler, path, fields)).status, 403, path);
      }
      assertEquals((await get(handler, "/enterable/a.txt")).text, "a");
      assertEquals((await get(handler, "/open.txt")).text, "open");
      assertEquals((await get(handler, "/")).status, 200);
    });
    await add(site, { "404.html": "x" });
    await chmod(join(site.root, "404.html"), 0);
    await withoutRights(async () => assertEquals((await get(handler, "/nothing")).status, 404));
  },
});

Deno.test({
  name: "handler() answers 404 to a link to a name that is not UTF-8",
  ignore: !isLinux,
  async fn() {
    await using site = await lay({ "a.txt": "a" });
    const commands = `cd "${site.root}" && mkdir "$(printf 'x\\377')" && ln -s "$(printf 'x\\377')" link`;
    assert((await new Deno.Command("sh", { args: ["-c", commands] }).output()).success);
    const handler = createHandler({ root: site.root });
    for (const path of ["/link", "/link/", "/link/x"]) assertEquals((await get(handler, path)).status, 404, path);
    assertEquals((await get(handler, "/")).status, 200);
  },
});

Deno.test("handler() follows links inside the root, and out of it only when asked to", async () => {
  await using outside = await lay({
    "secret.txt": "SECRET",
    "folder/secret.txt": "SECRET",
    "www-private/secret.txt": "SECRET",
  });
  await using site = await lay({
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
  const handler = createHandler({ root: site.root });
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

  const following = createHandler({ root: site.root, symlinks: true });
  for (const path of leaks.filter((path) => !path.endsWith("/"))) {
    assertEquals((await get(following, path)).text, "SECRET", path);
  }
  for (const path of ["/dangling", "/loop", "/loop/x"]) assertEquals((await get(following, path)).status, 404, path);
});

Deno.test("handler() serves a root that is itself a link, and not its neighbour of the same beginning", async () => {
  await using site = await lay({ "www/a.txt": "a", "www-private/secret.txt": "SECRET", "link": { link: "www" } });
  await Deno.symlink("../www-private/secret.txt", join(site.root, "www/leak"));
  const handler = createHandler({ root: join(site.root, "link") });
  assertEquals((await get(handler, "/a.txt")).text, "a");
  assertEquals((await get(handler, "/leak")).status, 404);
  assertEquals((await get(createHandler({ root: "/" }), join(site.root, "www/a.txt"))).text, "a");

  // A deployment turns the link to another version.
  await add(site, { "next/a.txt": "next" });
  await Deno.symlink("next", join(site.root, "link.new"));
  await Deno.rename(join(site.root, "link.new"), join(site.root, "link"));
  assertEquals((await get(handler, "/a.txt")).text, "next");
});

// 2. Method ---------------------------------------------------------------------------------------------------------

Deno.test("handler() answers HEAD like GET, without the body", async () => {
  await using site = await lay({
    "index.html": "index",
    "a.bin": new Uint8Array(5000).fill(0xff),
    "big.txt": "big ".repeat(500_000),
    "empty": "",
    "sub/a": "a",
    "404.html": "nothing here",
  });
  const handler = createHandler({ root: site.root });
  await using server = start(handler);
  const { headers } = await rawGet(server.port, "/a.bin");
  const zipped = await rawGet(server.port, "/big.txt", "Host: h\r\nAccept-Encoding: gzip\r\n", "HEAD");
  assertEquals([zipped.headers.get("content-encoding"), zipped.headers.get("content-length")], ["gzip", null]);
  const conditions = [
    "",
    `If-None-Match: ${headers.get("etag")}\r\n`,
    "If-Match: x\r\n",
    `If-Modified-Since: ${headers.get("last-modified")}\r\n`,
  ];
  for (const path of ["/", "/a.bin", "/empty", "/sub/", "/sub", "/a.bin/", "/nothing", "/%zz"]) {
    for (const condition of conditions) {
      const fields = `Host: localhost\r\n${condition}`;
      const [get, head] = [await rawGet(server.port, path, fields), await rawGet(server.port, path, fields, "HEAD")];
      const name = `${path} ${condition}`;
      // A body that the handler gave to a HEAD would be sent over HTTP/2.
      assertEquals((await ask(handler, path, { method: "HEAD" })).text, "", path);
      assertEquals(head.status, get.status, name);
      assertEquals(withoutDate(head.headers), withoutDate(get.headers), name);
      assertEquals(head.text, "", name);
    }
  }
  for (const range of ["bytes=0-9", "bytes=9999-"]) { // they are for GET alone (RFC 9110, 14.2)
    assertEquals((await rawGet(server.port, "/a.bin", `Host: h\r\nRange: ${range}\r\n`, "HEAD")).status, 200);
  }
});

function withoutDate(headers: Headers): [string, string][] {
  return [...headers].filter(([name]) => name !== "date");
}

Deno.test("handler() answers OPTIONS with Allow, and refuses all but GET and HEAD", async () => {
  await using site = await lay({ "a.txt": "a" });
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
    const { status, headers } = await rawGet(server.port, method === "CONNECT" ? "h:80" : "/a.txt", undefined, method);
    assertEquals([status, headers.get("allow")], [405, "GET, HEAD, OPTIONS"], method);
  }
});

Deno.test("handler() never waits for a request's body", async () => {
  await using site = await lay({ "a.txt": "a" });
  const server = start({ root: site.root });
  for (const [method, status] of [["POST", 405], ["PUT", 405], ["GET", 200], ["OPTIONS", 204]] as const) {
    using client = await RawClient.connect(server.port);
    await client.send(`${method} /a.txt HTTP/1.1\r\nHost: h\r\nContent-Length: 1000000\r\n\r\nthe beginning`);
    assertEquals((await client.receive(method))?.status, status, method);
  }
  await server.server.shutdown();
});

Deno.test("handler() allows other origins with cors, preflight included", async () => {
  await using site = await lay({ "a.txt": "a", "sub/x": "x" });
  const handler = createHandler({ root: site.root, cors: true });
  const { headers } = await get(handler, "/a.txt");
  for (
    const [path, status, fields] of [
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
    const answer = await get(handler, path, { origin: "http://other.example", ...fields });
    assertEquals([answer.status, answer.headers.get("access-control-allow-origin")], [status, "*"], path);
  }
  const preflight = await ask(handler, "/a.txt", {
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

  const plain = await get(createHandler({ root: site.root }), "/a.txt", { origin: "http://other.example" });
  assertEquals(plain.headers.get("access-control-allow-origin"), null);
});

// 4. Conditions and ranges ------------------------------------------------------------------------------------------

const MODIFIED = "Sun, 06 Nov 1994 08:49:37 GMT";
const EARLIER = "Sun, 06 Nov 1994 08:49:36 GMT";
const LATER = "Sun, 06 Nov 1994 08:49:38 GMT";

Deno.test("evaluatePreconditions() follows the order of RFC 9110, 13.2.2", () => {
  const validators = { etag: 'W/"5-a"', modified: Date.parse(MODIFIED) };
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
  for (const [fields, status] of cases) {
    assertEquals(evaluatePreconditions(new Headers(fields), validators), status, JSON.stringify(fields));
  }
  assertEquals(evaluatePreconditions(new Headers({ "if-modified-since": LATER, "if-none-match": '"x"' }), {}), 200);

  // Dates are in UTC, wherever the server stands.
  const zone = Deno.env.get("TZ");
  try {
    Deno.env.set("TZ", "America/New_York");
    assertEquals(new Date(0).getHours(), 19, "the time zone did not change");
    const fields = new Headers({ "if-modified-since": "Sun Nov  6 08:49:36 1994" });
    assertEquals(evaluatePreconditions(fields, validators), 200);
  } finally {
    if (zone === undefined) Deno.env.delete("TZ");
    else Deno.env.set("TZ", zone);
  }
});

Deno.test("parseRange() takes one range of bytes, and the whole file for everything else", () => {
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
    ["bytes=100-", "unsatisfiable"],
    ["bytes=100-200", "unsatisfiable"],
    [`bytes=${"9".repeat(40)}-`, "unsatisfiable"],
    ["bytes=-0", "unsatisfiable"],
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
  for (const [field, range] of cases) assertEquals(parseRange(field, 100), range, String(field));
  for (const field of ["bytes=0-", "bytes=-5", "bytes=0-0", "bytes=-0"]) assertEquals(parseRange(field, 0), undefined);
});

Deno.test("handler() answers 304 with the fields that a cache needs, and no others", async () => {
  await using site = await lay({ "a.txt": "a" });
  const handler = createHandler({ root: site.root, headers: [["X-Mine", "1"]], cors: true });
  const { headers } = await get(handler, "/a.txt");
  const [etag, modified] = [headers.get("etag")!, headers.get("last-modified")!];
  assertMatch(etag, /^W\/"[!-~]+"$/);
  for (const [name, value] of [["if-none-match", etag], ["if-modified-since", modified]] as const) {
    const answer = await get(handler, "/a.txt", { [name]: value });
    assertEquals([answer.status, answer.text], [304, ""]);
    assertEquals(Object.fromEntries(answer.headers), {
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

Deno.test("handler() gives another ETag to every version of a file", async () => {
  await using site = await lay({ "a.txt": "one" });
  const file = join(site.root, "a.txt");
  const handler = createHandler({ root: site.root });
  const time = new Date("2020-01-01");
  await Deno.utime(file, time, time);
  const etag = (await get(handler, "/a.txt")).headers.get("etag")!;
  assertEquals((await get(handler, "/a.txt")).headers.get("etag"), etag);

  // Of the same size and at the same time, by a clock that may have ticked only once.
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

Deno.test("handler() sends ranges as RFC 9110, 14 has them", async () => {
  const bytes = new Uint8Array(1000).map((_, index) => 97 + index % 26);
  const text = decoder.decode(bytes);
  await using site = await lay({ "a.bin": bytes, "empty.txt": "", "utf8.txt": "é".repeat(100) });
  const handler = createHandler({ root: site.root });
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
    const answer = await get(handler, "/a.bin", { range, "accept-encoding": "gzip, br" });
    assertEquals([answer.status, answer.text], [206, text.slice(start, end + 1)], range);
    assertEquals(answer.headers.get("content-range"), `bytes ${start}-${end}/1000`);
    assertEquals(answer.headers.get("content-length"), `${end - start + 1}`);
    assertEquals(answer.headers.get("content-encoding"), null);
    assertMatch(answer.headers.get("etag")!, /^W\//);
  }
  for (const range of ["bytes=1000-", "bytes=-0", "bytes=5000-6000"]) {
    const answer = await get(handler, "/a.bin", { range });
    assertEquals([answer.status, answer.text], [416, "416 Range Not Satisfiable\n"], range);
    assertEquals(answer.headers.get("content-range"), "bytes */1000");
    assertEquals(answer.headers.get("content-type"), "text/plain; charset=UTF-8");
  }
  for (const range of ["lines=0-9", "megabytes=0-9", "bytes=5-2", "bytes=0-9,20-29", "bytes=x"]) {
    const answer = await get(handler, "/a.bin", { range });
    assertEquals([answer.status, answer.text, answer.headers.get("content-range")], [200, text, null], range);
  }
  for (let count = 0; count < 2; count++) { // a range is one of bytes, not of characters
    const part = await handler(new Request("http://localhost/utf8.txt", { headers: { range: "bytes=1-2" } }));
    assertEquals([...await part.bytes()], [0xa9, 0xc3]);
  }
  const empty = await get(handler, "/empty.txt", { range: "bytes=0-9" });
  assertEquals([empty.status, empty.text, empty.headers.get("content-length")], [200, "", "0"]);
});

Deno.test("handler() heeds If-Range: only the file's own date lets the range through", async () => {
  await using site = await lay({ "a.txt": "0123456789" });
  await Deno.utime(join(site.root, "a.txt"), new Date(MODIFIED), new Date(Date.parse(MODIFIED) + 400));
  const handler = createHandler({ root: site.root });
  const { headers } = await get(handler, "/a.txt");
  assertEquals(headers.get("last-modified"), MODIFIED);
  const cases: [string, number][] = [
    [MODIFIED, 206],
    [EARLIER, 200],
    [LATER, 200],
    [headers.get("etag")!, 200],
    [headers.get("etag")!.slice(2), 200],
    ['"x"', 200],
    ["nonsense", 200],
    ["", 200],
  ];
  for (const [ifRange, status] of cases) {
    const answer = await get(handler, "/a.txt", { range: "bytes=2-4", "if-range": ifRange });
    assertEquals([answer.status, answer.text], status === 206 ? [206, "234"] : [200, "0123456789"], ifRange);
  }
  assertEquals((await get(handler, "/a.txt", { "if-range": "nonsense", range: "bytes=99-" })).status, 200);
  assertEquals(
    (await get(handler, "/a.txt", { "if-none-match": headers.get("etag")!, range: "bytes=0-1" })).status,
    304,
  );
});

// 5. Delivery -------------------------------------------------------------------------------------------------------

Deno.test("handler() gives every file a type", async () => {
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
  await using site = await lay({
    ...Object.fromEntries(Object.keys(types).map((name) => [name, "let it be\ttext\n"])),
    "utf8": "é😀".repeat(500),
    "cut": "a" + "é".repeat(600), // its 1024th byte is in the middle of a character
    "empty": "",
    "binary": new Uint8Array([0x7f, 0x45, 0x4c, 0x46, 0]),
    "latin1": new Uint8Array([0xe9, 0x20, 0x61]),
    "bigtext": "text ".repeat(500_000),
    "bigbinary": new Uint8Array(2_000_000),
  });
  const handler = createHandler({ root: site.root });
  Object.assign(types, { utf8: types.LICENSE, cut: types.LICENSE, empty: types.LICENSE });
  Object.assign(types, { binary: "application/octet-stream", latin1: "application/octet-stream" });
  Object.assign(types, { bigtext: types.LICENSE, bigbinary: "application/octet-stream" });
  for (const [name, type] of Object.entries(types)) {
    for (const fields of [undefined, { range: "bytes=0-0" }]) {
      assertEquals((await get(handler, `/${name}`, fields)).headers.get("content-type"), type, name);
    }
  }
});

Deno.test("handler() sets nosniff and Cache-Control on every answer, and names no software", async () => {
  await using site = await lay({ "a.txt": "a", "sub/x": "x" });
  for (const [maxAge, cacheControl] of [[0, "no-cache"], [60, "max-age=60"]] as const) {
    const handler = createHandler({ root: site.root, maxAge });
    for (const path of ["/a.txt", "/sub", "/sub/", "/nothing", "/%zz"]) {
      const { status, headers } = await get(handler, path);
      assertEquals(headers.get("x-content-type-options"), "nosniff", path);
      assertEquals(headers.get("cache-control"), status < 400 ? cacheControl : "no-cache", path);
      assertEquals(headers.get("server"), null, path);
    }
  }
});

Deno.test("handler() lets the user's fields replace its own, on every answer", async () => {
  await using site = await lay({ "a.txt": "a", "sub/x": "x" });
  const headers: [string, string][] = [
    ["cache-control", "private"],
    ["X-Content-Type-Options", "mine"],
    ["Content-Type", "text/x-mine"],
    ["Link", "</a>; rel=preload"],
    ["Link", "</b>; rel=preload"],
  ];
  const handler = createHandler({ root: site.root, headers, cors: true, maxAge: 5 });
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
    const answer = await ask(handler, path, init);
    assertEquals(answer.headers.get("cache-control"), "private", path);
    assertEquals(answer.headers.get("x-content-type-options"), "mine", path);
    assertEquals(answer.headers.get("content-type"), "text/x-mine", path);
    assertEquals(answer.headers.get("link"), "</a>; rel=preload, </b>; rel=preload", path);
  }
});

// Memory ------------------------------------------------------------------------------------------------------------

/** Runs a function as if it were later, when the files just written have settled and may be kept. */
async function whenSettled<T>(fn: () => Promise<T>): Promise<T> {
  const { now } = Date;
  try {
    Date.now = () => now() + 60_000;
    return await fn();
  } finally {
    Date.now = now;
  }
}

/** Returns once the disk's clock has moved on from the time of a file, so that a change from now on shows in its times. */
async function clockTick(file: string): Promise<void> {
  const { ctime } = await Deno.stat(file);
  const probe = await Deno.makeTempFile({ dir: dirname(file) });
  while ((await Deno.stat(probe)).ctime!.getTime() <= ctime!.getTime()) await Deno.writeTextFile(probe, "");
  await Deno.remove(probe);
}

/** Returns how many files are opened or read while a function runs. */
async function countReads(fn: () => Promise<unknown>): Promise<number> {
  const { open, readFile } = Deno;
  let count = 0;
  try {
    Deno.open = (...args) => (count++, open(...args));
    Deno.readFile = (...args) => (count++, readFile(...args));
    await fn();
  } finally {
    Object.assign(Deno, { open, readFile });
  }
  return count;
}

/** Asks for a path and decodes what comes. */
async function getDecoded(handler: Handler, path: string, accept: string, method = "GET"): Promise<Answer> {
  const response = await handler(
    new Request(`http://localhost${path}`, { method, headers: { "accept-encoding": accept } }),
  );
  const bytes = await response.bytes();
  const encoding = bytes.length > 0 ? response.headers.get("content-encoding") : null;
  const plain = encoding === "br" ? brotliDecompressSync(bytes) : encoding === "gzip" ? gunzipSync(bytes) : bytes;
  return { status: response.status, headers: response.headers, text: decoder.decode(plain) };
}

Deno.test("Memory() keeps what was used last, within its limit", () => {
  const memory = new Memory<number>(100);
  for (let count = 0; count < 10; count++) memory.set(`${count}`, count, 10);
  assertEquals(memory.size, 100);
  assertEquals(memory.get("0"), 0);
  memory.set("10", 10, 15);
  assertEquals([memory.size, memory.get("1"), memory.get("2"), memory.get("0")], [95, undefined, undefined, 0]);
  memory.set("10", 11, 5);
  assertEquals([memory.size, memory.get("10")], [85, 11]);
  memory.grow("10", 10, 1000); // another value than the one that is kept
  assertEquals(memory.size, 85);
  memory.grow("10", 11, 50);
  assertEquals([memory.size, memory.get("10"), memory.get("3"), memory.get("6"), memory.get("7")], [
    95,
    11,
    undefined,
    undefined,
    7,
  ]);
  memory.delete("10");
  memory.delete("nothing");
  assertEquals(memory.size, 40);
  memory.set("huge", 1, 101);
  assertEquals([memory.size, memory.get("huge")], [0, undefined]);
});

Deno.test("handler() answers from memory without opening the file again", async () => {
  await using site = await lay({
    "index.html": "index",
    "a.txt": "a".repeat(5000),
    "a.bin": new Uint8Array(5000).fill(255),
  });
  const handler = createHandler({ root: site.root });
  await whenSettled(async () => {
    for (
      const [path, accept] of [["/", ""], ["/index.html", ""], ["/a.txt", ""], ["/a.txt", "br"], ["/a.txt", "gzip"], [
        "/a.bin",
        "br",
      ]] as const
    ) {
      const first = await getDecoded(handler, path, accept);
      const reads = await countReads(async () => {
        const again = await getDecoded(handler, `${path}?query`, accept);
        assertEquals([again.status, again.text, [...again.headers]], [first.status, first.text, [...first.headers]]);
        const etag = first.headers.get("etag")!;
        assertEquals((await get(handler, path, { "if-none-match": etag, "accept-encoding": accept })).status, 304);
        const failed = await get(handler, path, { "if-match": "x" });
        assertEquals([failed.status, failed.headers.get("x-content-type-options")], [412, "nosniff"]);
        assertEquals((await get(handler, path, { range: "bytes=0-0" })).status, 206);
        assertEquals((await get(handler, path, { range: "bytes=9999-" })).status, 416);
        assertEquals((await ask(handler, path, { method: "HEAD" })).status, 200);
      });
      assertEquals(reads, 0, `${path} ${accept}`);
    }
    assertEquals((await ask(handler, "/a.txt", { method: "POST" })).status, 405);
    assertEquals((await ask(handler, "/a.txt", { method: "OPTIONS" })).status, 204);
  });
});

Deno.test("handler() does not keep a file that was written a moment ago", async () => {
  await using site = await lay({ "a.txt": "one" });
  const handler = createHandler({ root: site.root });
  await get(handler, "/a.txt");
  assert(await countReads(() => get(handler, "/a.txt")) > 0);
  const future = new Date(Date.now() + 1e9);
  await Deno.utime(join(site.root, "a.txt"), future, future);
  await whenSettled(async () => {
    await get(handler, "/a.txt");
    assert(await countReads(() => get(handler, "/a.txt")) > 0, "a time in the future is no settled one");
  });
});

Deno.test("handler() does the work of simultaneous first requests once", async () => {
  await using site = await lay({ "a.txt": "a".repeat(5000) });
  await Deno.writeFile(join(site.root, "a.txt.br"), brotliCompressSync("a".repeat(5000)));
  for (const [accept, files] of [["identity", 1], ["gzip", 1], ["br", 2]] as const) {
    const handler = createHandler({ root: site.root });
    const reads = await countReads(() =>
      whenSettled(async () => {
        const answers = await Promise.all(Array.from({ length: 50 }, () => getDecoded(handler, "/a.txt", accept)));
        for (const { status, text } of answers) assertEquals([status, text], [200, "a".repeat(5000)]);
      })
    );
    assertEquals(reads, files, accept);
  }
});

Deno.test("handler() serves a change that comes while an earlier request is being answered", async () => {
  await using site = await lay({});
  const file = join(site.root, "a.txt");
  const { subtle } = crypto;
  const digest = subtle.digest.bind(subtle);
  for (const [isSettled, text] of [[true, "of another length"], [false, "same"]] as const) {
    const time = new Date("2020-01-01");
    const write = async (text: string) => {
      await Deno.writeTextFile(file, text);
      await Deno.utime(file, time, time); // so that a coarse clock shows no difference
    };
    await write("once");
    const handler = createHandler({ root: site.root });
    const hasRead = Promise.withResolvers<void>();
    const mayGoOn = Promise.withResolvers<void>();
    const trial = async () => {
      // The first digest is serveDir's, before it reads; the second is of the bytes.
      let calls = 0;
      subtle.digest = async (...args) => {
        if (++calls === 2) {
          hasRead.resolve();
          await mayGoOn.promise;
        }
        return await digest(...args);
      };
      const first = get(handler, "/a.txt");
      await hasRead.promise;
      await write(text);
      const second = get(handler, "/a.txt");
      mayGoOn.resolve();
      assertEquals([(await first).text, (await second).text], ["once", text]);
      assertEquals((await get(handler, "/a.txt")).text, text);
    };
    try {
      await (isSettled ? whenSettled(trial) : trial());
    } finally {
      subtle.digest = digest;
    }
  }
});

Deno.test("handler() serves a change on the very next request, whatever it remembers", async (t) => {
  const OLD = "old ".repeat(1000);
  const NEW = "new ".repeat(1000);
  const time = new Date("2020-01-01");
  await using site = await lay({});
  const changes: Record<string, [change: (file: string) => Promise<unknown>, status: number, text: string]> = {
    "overwritten": [(file) => Deno.writeTextFile(file, NEW), 200, NEW],
    "overwritten, with its time kept": [
      async (file) => {
        await Deno.writeTextFile(file, NEW);
        await Deno.utime(file, time, time);
      },
      200,
      NEW,
    ],
    "replaced, with its time kept": [
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
    "deleted and written again": [
      async (file) => {
        await Deno.remove(file);
        await Deno.writeTextFile(file, NEW);
      },
      200,
      NEW,
    ],
    "linked to another file": [
      async (file) => {
        await Deno.writeTextFile(`${file}.other`, NEW);
        await Deno.remove(file);
        await Deno.symlink(`${file}.other`, file);
      },
      200,
      NEW,
    ],
    "linked to the outside": [
      async (file) => {
        await Deno.remove(file);
        await Deno.symlink("/etc/passwd", file);
      },
      404,
      "404 Not Found\n",
    ],
    "in a folder that is linked to the outside": [
      async (file) => {
        await Deno.remove(dirname(file), { recursive: true });
        await Deno.symlink("/etc", dirname(file));
      },
      404,
      "404 Not Found\n",
    ],
    "in a folder that was moved outside and is linked to": [
      async (file) => {
        const moved = join(site.root, crypto.randomUUID());
        await Deno.rename(dirname(file), moved);
        await Deno.symlink(moved, dirname(file));
      },
      404,
      "404 Not Found\n",
    ],
    "turned into a folder": [
      async (file) => {
        await Deno.remove(file);
        await Deno.mkdir(file);
      },
      301,
      "",
    ],
    ...isWindows ? {} : { "made unreadable": [(file) => Deno.chmod(file, 0), 403, "403 Forbidden\n"] },
  };
  const states = ["cold", "kept", "kept in another encoding"] as const;
  const trials = Object.keys(changes).flatMap((name) =>
    ["identity", "br", "gzip"].flatMap((accept) =>
      states.map((state) => ({ name, accept, state, folder: crypto.randomUUID() }))
    )
  );
  for (const { folder } of trials) await add(site, { [`${folder}/www/sub/a.txt`]: OLD });
  const handlers = new Map<string, Handler>();
  await whenSettled(async () => {
    for (const { accept, state, folder } of trials) {
      const root = join(site.root, folder, "www");
      await Deno.utime(join(root, "sub/a.txt"), time, time);
      const handler = createHandler({ root });
      handlers.set(folder, handler);
      const warm = state === "cold" ? [] : [state === "kept" ? accept : accept === "br" ? "gzip" : "br"];
      for (const encoding of [...warm, ...warm]) {
        assertEquals((await getDecoded(handler, "/sub/a.txt", encoding)).text, OLD);
      }
    }
  });
  await clockTick(join(site.root, trials.at(-1)!.folder, "www/sub/a.txt"));
  for (const { name, accept, state, folder } of trials) {
    await t.step(`${name}, ${accept}, ${state}`, async () => {
      const [change, status, text] = changes[name]!;
      await change(join(site.root, folder, "www/sub/a.txt"));
      const answer = await whenSettled(() =>
        withoutRights(() => getDecoded(handlers.get(folder)!, "/sub/a.txt", accept))
      );
      assertEquals([answer.status, answer.text], [status, text]);
    });
  }
});

Deno.test("handler() answers alike, cold or from memory, in every encoding and method", async () => {
  await using site = await lay({
    "a.js": "let a = 1;\n".repeat(500),
    "é.html": "<p>é</p>".repeat(500),
    "a.png": new Uint8Array(5000),
  });
  const known = createHandler({ root: site.root });
  for (const path of ["/a.js", "/%C3%A9.html", "/a.png"]) {
    for (const accept of ["identity", "gzip", "br", "gzip, deflate, br, zstd"]) {
      const [cold, warm, head] = await whenSettled(async () => [
        await getDecoded(createHandler({ root: site.root }), path, accept),
        (await getDecoded(known, path, accept), await getDecoded(known, path, accept)),
        await getDecoded(known, path, accept, "HEAD"),
      ]);
      assertEquals([...warm.headers], [...cold.headers], `${path} ${accept}`);
      assertEquals([...head.headers], [...cold.headers], `${path} ${accept}`);
      assertEquals([warm.status, warm.text, head.text], [cold.status, cold.text, ""]);
      assertEquals(cold.text, await Deno.readTextFile(join(site.root, decodeURIComponent(path))));
    }
  }
});

Deno.test("handler() keeps its answers from what is done to them", async () => {
  await using site = await lay({ "a.txt": "a".repeat(5000), "a.bin": new Uint8Array(5000).fill(255) });
  const handler = createHandler({ root: site.root });
  await whenSettled(async () => {
    for (const path of ["/a.txt", "/a.bin"]) {
      for (
        const fields of [{}, { "accept-encoding": "br" }, { "if-none-match": "*" }, { range: "bytes=0-99" }] as Record<
          string,
          string
        >[]
      ) {
        const request = () => new Request(`http://localhost${path}`, { headers: fields });
        const first = (await (await handler(request())).bytes()).slice();
        for (let count = 0; count < 3; count++) {
          const response = await handler(request());
          response.headers.set("content-type", "changed");
          response.headers.append("x-changed", "yes");
          (await response.bytes()).fill(0);
        }
        const last = await handler(request());
        assertEquals([last.headers.get("x-changed"), last.headers.get("content-type") === "changed"], [null, false]);
        assertEquals(await last.bytes(), first);
      }
    }
  });
});

Deno.test("handler() sends any range of a file that is too big for memory", async () => {
  const size = 5 << 20;
  const bytes = new Uint8Array(size).map((_, index) => index * 31 ^ index >> 8);
  await using site = await lay({ "big.bin": bytes });
  await using server = start({ root: site.root });
  for (
    const [first, last] of [[0, 9], [100, 70_000], [size - 5, size - 1], [12_345, size - 1], [1, 3 << 20], [
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
  if (isLinux) assertEquals(openFiles(site.root), 0);
});

Deno.test("handler() sends a file that grows meanwhile as long as it said", async () => {
  const size = 3 << 20;
  await using site = await lay({ "big.bin": new Uint8Array(size) });
  const file = join(site.root, "big.bin");
  const handler = createHandler({ root: site.root });
  await using server = start(handler);
  // With a Host, and without one as in HTTP/2.
  for (const origin of [`http://127.0.0.1:${server.port}`, undefined]) {
    for (const range of ["", "bytes=5-"]) {
      await Deno.truncate(file, size);
      const request = new Request(`${origin ?? "http://localhost"}/big.bin`, { headers: range ? { range } : {} });
      const response = origin ? await fetch(request) : await handler(request);
      await Deno.truncate(file, size + 5000);
      const length = range ? size - 5 : size;
      assertEquals([(await response.bytes()).length, response.headers.get("content-length")], [length, `${length}`]);
    }
  }
});

/** Returns where two arrays begin to differ, or -1: `assertEquals` takes long for millions of bytes. */
function indexOfDifference(one: Uint8Array, other: Uint8Array): number {
  if (one.length !== other.length) return Math.min(one.length, other.length);
  return one.findIndex((byte, index) => byte !== other[index]);
}

// Encodings ---------------------------------------------------------------------------------------------------------

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
  for (const [field, encodings] of cases) assertEquals(acceptedEncodings(field) as string[], encodings, field);
});

Deno.test("handler() compresses what is worth it, and says that the encoding may differ", async () => {
  const text = "some text that repeats itself; ".repeat(100);
  await using site = await lay({
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
  const handler = createHandler({ root: site.root });
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
    assertEquals(await encodingOf(path, "gzip, deflate, br, zstd"), ["br", "Accept-Encoding"], path);
    assertEquals(await encodingOf(path, "gzip"), ["gzip", "Accept-Encoding"], path);
    assertEquals(await encodingOf(path, "zstd"), [null, "Accept-Encoding"], path);
    assertEquals(await encodingOf(path, ""), [null, "Accept-Encoding"], path);
  }
  assertEquals((await get(handler, "/a.js")).headers.get("content-encoding"), null);
  for (const path of ["/a.png", "/a.woff2", "/a.mp4", "/a.zip"]) {
    assertEquals(await encodingOf(path, "gzip, br"), [null, null], path);
  }
  assertEquals(await encodingOf("/small.txt", "br"), [null, "Accept-Encoding"]);
  assertEquals(await encodingOf("/small.txt", "br, identity;q=0"), ["br", "Accept-Encoding"]);
  assertEquals((await encodingOf("/noise.txt", "br"))[0], null, "it would not become smaller");

  for (const options of [{ compress: false }, { headers: [["Content-Encoding", "x-mine"]] as [string, string][] }]) {
    const { headers, text: sent } = await get(createHandler({ root: site.root, ...options }), "/a.js", {
      "accept-encoding": "br",
    });
    assertEquals([sent, headers.get("vary")], [text, null]);
  }
});

Deno.test("handler() sends what lies compressed beside a file, unless it is older", async () => {
  const text = "original ".repeat(200);
  const earlier = new Date("2020-01-01");
  const later = new Date("2020-01-02");
  await using outside = await lay({ "secret.txt": "SECRET" });
  await using site = await lay({
    "a.js": text,
    "a.js.br": brotliCompressSync("beside br"),
    "a.js.gz": gzipSync("beside gz"),
    "a.js.zst": "beside zst",
    "stale.js": text,
    "stale.js.br": brotliCompressSync("stale"),
    "small.js": "x",
    "small.js.gz": gzipSync("x"),
    "leak.js": text,
    "leak.js.gz": { link: join(outside.root, "secret.txt") },
    "locked.js": text,
    "locked.js.gz": gzipSync("locked"),
    "folder.js": text,
    "folder.js.gz/x": "x",
  });
  const file = (name: string) => join(site.root, name);
  for (const name of ["a.js", "small.js", "leak.js", "locked.js"]) await Deno.utime(file(name), earlier, earlier);
  for (const name of ["a.js.br", "a.js.gz", "a.js.zst", "stale.js"]) await Deno.utime(file(name), later, later);
  await Deno.utime(file("stale.js.br"), earlier, earlier);
  await chmod(file("locked.js.gz"), 0);

  const handler = createHandler({ root: site.root });
  const sent = async (path: string, accept: string) => {
    const { headers, text } = await getDecoded(handler, path, accept);
    assertEquals(headers.get("content-type"), "text/javascript; charset=UTF-8");
    assertEquals(headers.get("vary"), "Accept-Encoding");
    return [headers.get("content-encoding"), text];
  };
  await whenSettled(() =>
    withoutRights(async () => {
      for (let count = 0; count < 2; count++) { // cold, then from memory
        assertEquals(await sent("/a.js", "gzip, br, zstd"), ["br", "beside br"]);
        assertEquals(await sent("/a.js", "gzip, zstd"), ["zstd", "beside zst"]);
        assertEquals(await sent("/a.js", "gzip"), ["gzip", "beside gz"]);
        assertEquals(await sent("/a.js", ""), [null, text]);
        assertEquals(await sent("/stale.js", "br"), ["br", text]);
        assertEquals(await sent("/small.js", "br, gzip"), ["gzip", "x"]);
        for (const path of ["/leak.js", "/locked.js", "/folder.js"]) {
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
      assertEquals(etags.size, 3, "each file has its own");
    })
  );

  await Deno.writeFile(file("a.js.br"), brotliCompressSync("changed"));
  await Deno.remove(file("a.js.gz"));
  await Deno.remove(file("a.js.zst"));
  await whenSettled(async () => {
    assertEquals(await sent("/a.js", "br"), ["br", "changed"]);
    assertEquals(await sent("/a.js", "gzip"), ["gzip", text]);
    assertEquals(await sent("/a.js", "zstd"), [null, text]);
    const { headers, text: part } = await get(handler, "/a.js", { "accept-encoding": "br", range: "bytes=0-7" });
    assertEquals([headers.get("content-encoding"), part], [null, "original"]);
  });
});

Deno.test("handler() serves a change of what lies beside a file, however fast it comes", async () => {
  await using site = await lay({ "a.js": "original ".repeat(200), "a.js.br": "" });
  const beside = join(site.root, "a.js.br");
  const handler = createHandler({ root: site.root });
  const sent = async () => (await getDecoded(handler, "/a.js", "br")).text;
  const { subtle } = crypto;
  const digest = subtle.digest.bind(subtle);
  await whenSettled(async () => {
    // Written a moment ago by the clock of this test: two edits of one length within a tick look the same.
    const time = new Date(Date.now() + 1e6);
    for (const text of ["beside one", "beside two", "beside 333"]) {
      await Deno.writeFile(beside, brotliCompressSync(text));
      await Deno.utime(beside, time, time);
      assertEquals(await sent(), text);
    }

    // While an earlier request is being answered: it has read the old bytes when the new ones are written.
    const past = new Date("2020-01-01");
    await Deno.utime(join(site.root, "a.js"), past, past);
    await Deno.writeFile(beside, brotliCompressSync("old"));
    await Deno.utime(beside, past, past);
    const hasRead = Promise.withResolvers<void>();
    const mayGoOn = Promise.withResolvers<void>();
    let calls = 0; // of the original serveDir's and ours, then the same of what lies beside it
    subtle.digest = async (...args) => {
      if (++calls === 4) {
        hasRead.resolve();
        await mayGoOn.promise;
      }
      return await digest(...args);
    };
    const first = sent();
    await hasRead.promise;
    await Deno.writeFile(beside, brotliCompressSync("another length"));
    const second = sent();
    mayGoOn.resolve();
    assertEquals([await first, await second, await sent()], ["old", "another length", "another length"]);
  }).finally(() => subtle.digest = digest);
});

Deno.test("handler() compresses on the way what is too big for memory", async () => {
  const text = "a line of a long log\n".repeat(100_000);
  await using site = await lay({
    "big.log": text,
    "big.csv": text,
    "big.csv.br": crypto.getRandomValues(new Uint8Array(60_000)),
  });
  const handler = createHandler({ root: site.root });
  await whenSettled(async () => {
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
      const beside = await handler(new Request("http://localhost/big.csv", { headers: { "accept-encoding": "br" } }));
      assertEquals([beside.headers.get("content-encoding"), beside.headers.get("content-length")], ["br", "60000"]);
      await beside.body?.cancel();
    }
  });
});

// 6. Fallback -------------------------------------------------------------------------------------------------------

Deno.test("handler() answers 404 with the nearest 404.html, or one plain line", async () => {
  await using site = await lay({
    "404.html": "root's",
    "sub/deep/a.txt": "a",
    "sub/404.html": "sub's",
    "other/a.txt": "a",
  });
  const handler = createHandler({ root: site.root });
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
    const answer = await get(handler, path, { range: "bytes=0-1", "if-none-match": `*, ${etag}` });
    assertEquals([answer.status, answer.text], [404, text], path);
    assertEquals(Object.fromEntries(answer.headers), {
      "content-type": "text/html; charset=UTF-8",
      "content-length": `${text.length}`,
      "cache-control": "no-cache",
      "x-content-type-options": "nosniff",
      "vary": "Accept-Encoding",
    });
  }
  assertEquals((await get(handler, "/404.html")).status, 200);

  await add(site, { "long/404.html": "<p>none".repeat(500) });
  const encoded = await get(handler, "/long/nothing", { "accept-encoding": "gzip" });
  assertEquals([encoded.status, encoded.headers.get("content-encoding")], [404, "gzip"]);
  assert(Number(encoded.headers.get("content-length")) < 500);

  // Each folder costs a look at the disk, so there is an end to it.
  await add(site, { [`${"d/".repeat(31)}404.html`]: "deep", [`${"d/".repeat(40)}404.html`]: "too deep" });
  assertEquals((await get(handler, `/${"d/".repeat(40)}nothing`)).text, "deep");

  await Deno.remove(join(site.root, "404.html"));
  const { status, headers, text } = await get(handler, "/nothing");
  assertEquals([status, headers.get("content-type"), text], [404, "text/plain; charset=UTF-8", "404 Not Found\n"]);
});

Deno.test("handler() answers the root's index.html to a single-page app's paths", async () => {
  await using site = await lay({
    "index.html": "app",
    "a.txt": "a",
    "sub/x": "x",
    "about.html": "about",
    "404.html": "none",
  });
  const handler = createHandler({ root: site.root, spa: true });
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
    const answer = await get(handler, path);
    assertEquals([answer.status, answer.text], [status, text], path);
  }
  const { headers } = await get(handler, "/user/42");
  assertEquals((await get(handler, "/user/42", { "if-none-match": headers.get("etag")! })).status, 304);
  assertEquals((await get(createHandler({ root: site.root }), "/user/42")).status, 404);
});

// 7. Fields and log -------------------------------------------------------------------------------------------------

Deno.test("handler() logs a line a request, into which nothing can be smuggled", async () => {
  await using site = await lay({ "a.txt": "hello" });
  const lines: string[] = [];
  await using server = start({ root: site.root, log: (line) => lines.push(line) });
  await rawGet(server.port, "/a.txt?q=1");
  await rawGet(server.port, "/nothing", undefined, "HEAD");
  await rawGet(server.port, "/a\u{9b}31m\u{202e}é");
  await rawGet(server.port, "/%0a%1b[31m");
  await rawGet(server.port, "/a.txt", "Host: u@h/x\r\n");
  await rawGet(server.port, "http://x/a.txt");
  const [first, ...rest] = lines;
  assertMatch(first!, /^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z 127\.0\.0\.1 GET \/a\.txt\?q=1 200 5 \d+ms$/);
  assertEquals(rest.map((line) => line.split(" ").slice(2, 6).join(" ")), [
    "HEAD /nothing 404 14",
    "GET /a%C2%9B31m%E2%80%AE%C3%A9 404 14",
    "GET /%0a%1b[31m 404 14",
    "GET /x/a.txt 400 16",
    "GET /a.txt 200 5",
  ]);
});

Deno.test("handler() answers 500 and tells the operator alone when something unforeseen happens", async () => {
  await using site = await lay({ "a.txt": "a" });
  const handler = createHandler({ root: site.root });
  const { error } = console;
  const told: unknown[] = [];
  const { statSync } = Deno;
  try {
    console.error = (...data: unknown[]) => told.push(...data);
    Deno.statSync = () => {
      throw new Error(`unforeseen in ${site.root}`);
    };
    const { status, text } = await get(handler, "/a.txt");
    assertEquals([status, text], [500, "500 Internal Server Error\n"]);
  } finally {
    Deno.statSync = statSync;
    console.error = error;
  }
  assertStringIncludes(String(told), `unforeseen in ${site.root}`);
});

// Password ----------------------------------------------------------------------------------------------------------

/** Returns an Authorization field, the credentials in UTF-8. */
function basic(credentials: string, scheme = "Basic"): Record<string, string> {
  return { authorization: `${scheme} ${encoder.encode(credentials).toBase64()}` };
}

Deno.test("handler() asks every request for the password", async () => {
  await using site = await lay({ "a.txt": "a", "index.html": "page", "sub/x.txt": "x", "404.html": "none" });
  const handler = createHandler({ root: site.root, auth: "me:secret" });
  const answer = await whenSettled(() => get(handler, "/a.txt", basic("me:secret")));
  assertEquals([answer.status, answer.text], [200, "a"]); // memory has it from now on
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
    const { status, headers, text } = await ask(handler, path, init);
    assertEquals([status, text], [401, init.method === "HEAD" ? "" : "401 Unauthorized\n"], path);
    assertEquals(Object.fromEntries(headers), {
      "www-authenticate": 'Basic realm="http-server", charset="UTF-8"',
      "content-type": "text/plain; charset=UTF-8",
      "content-length": "17",
      "cache-control": "no-cache",
      "x-content-type-options": "nosniff",
    });
  }
  const open = createHandler({ root: site.root });
  assertEquals((await get(open, "/a.txt", basic("who:ever"))).status, 200);
});

Deno.test("handler() takes the password in UTF-8, and nothing that is only like it", async () => {
  await using site = await lay({ "a.txt": "a" });
  const statusOf = async (auth: string, headers: Record<string, string>) =>
    (await get(createHandler({ root: site.root, auth }), "/a.txt", headers)).status;
  const right: [string, Record<string, string>][] = [
    ["me:secret", basic("me:secret")],
    ["me:secret", basic("me:secret", "bASIC  ")],
    [":secret", basic(":secret")],
    ["me:a:b", basic("me:a:b")],
    ["jürgen:pässwört 😀", basic("jürgen:pässwört 😀")],
    ["é:é".normalize("NFC"), basic("é:é".normalize("NFD"))],
    ["é:é".normalize("NFD"), basic("é:é".normalize("NFC"))],
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

Deno.test("createHandler() refuses a password that could not be asked for", async () => {
  await using site = await lay({ "a.txt": "a" });
  for (const auth of ["", ":", "me:", "secret", "me:sec\nret"]) {
    assertThrows(() => createHandler({ root: site.root, auth }), TypeError, "USER:PASSWORD");
  }
  // Nothing is left running where nobody could end it.
  const { watchFs } = Deno;
  try {
    Deno.watchFs = () => fail("it watches");
    assertThrows(() => createHandler({ root: site.root, auth: "", live: true }), TypeError, "USER:PASSWORD");
  } finally {
    Deno.watchFs = watchFs;
  }
});

Deno.test("handler() compares the password in constant time", async () => {
  await using site = await lay({ "a.txt": "a" });
  const nodeCrypto = process.getBuiltinModule("node:crypto");
  const { timingSafeEqual } = nodeCrypto;
  const compared: unknown[] = [];
  try {
    nodeCrypto.timingSafeEqual = (one, other) => {
      const isEqual = timingSafeEqual(one, other);
      compared.push([one.byteLength, other.byteLength, isEqual]);
      return isEqual;
    };
    const handler = createHandler({ root: site.root, auth: "me:secret" });
    for (const credentials of ["me:secret", "me:s", "a much longer one than it is"]) {
      await get(handler, "/a.txt", basic(credentials));
    }
  } finally {
    nodeCrypto.timingSafeEqual = timingSafeEqual;
  }
  assertEquals(compared, [[32, 32, true], [32, 32, false], [32, 32, false]]);
});

Deno.test("handler() lets a CORS preflight through without the password, and nothing else", async () => {
  await using site = await lay({ "a.txt": "a" });
  const handler = createHandler({ root: site.root, auth: "me:secret", cors: true });
  const headers = { origin: "http://x", "access-control-request-method": "GET" };
  const preflight = await ask(handler, "/a.txt", {
    method: "OPTIONS",
    headers: { ...headers, "access-control-request-headers": "authorization" },
  });
  assertEquals([preflight.status, preflight.headers.get("access-control-allow-headers")], [204, "authorization"]);
  assertEquals((await ask(handler, "/a.txt", { method: "OPTIONS" })).status, 401);
  const refusal = await ask(handler, "/a.txt", { headers });
  assertEquals([refusal.status, refusal.headers.get("access-control-allow-origin")], [401, "*"]);
});

Deno.test("handler() never logs a password", async () => {
  await using site = await lay({ "a.txt": "a" });
  const lines: string[] = [];
  const { error } = console;
  const { statSync } = Deno;
  try {
    console.error = (...data: unknown[]) => lines.push(...data.map(String));
    await using server = start({ root: site.root, auth: "me:secret", log: (line) => lines.push(line) });
    const fields = `Host: x\r\nAuthorization: ${basic("me:secret").authorization}\r\n`;
    assertEquals((await rawGet(server.port, "/a.txt", fields)).status, 200);
    assertEquals((await rawGet(server.port, "/a.txt", fields.replace("Basic", "Base"))).status, 401);
    assertEquals((await rawGet(server.port, "http://me:secret@x/nothing", fields)).status, 404);
    Deno.statSync = () => {
      throw new Error("unforeseen");
    };
    assertEquals((await rawGet(server.port, "http://me:secret@x/a.txt", fields)).status, 500);
  } finally {
    Deno.statSync = statSync;
    console.error = error;
  }
  const text = lines.join("\n");
  assertEquals(lines.length, 5, text);
  assertStringIncludes(text, "GET /a.txt: unforeseen");
  assert(!/secret|bWU6c2VjcmV0/.test(text), text);
});

// Live reload -------------------------------------------------------------------------------------------------------

/** A handler with live reload, which ends with the test. */
function startLive({ root }: Site, options: Partial<Options> = {}) {
  const stop = new AbortController();
  const handler = createHandler({ root, live: true, signal: stop.signal, ...options });
  return { handler, stop, [Symbol.dispose]: () => stop.abort() };
}

/** The version that a page was made of, as it is in the page. */
function versionIn(text: string): string {
  return /<script async src="\/\.live-reload\/script\.js\?([\w-]+)"( data-stand-in)?><\/script>\n$/.exec(text)?.[1] ??
    fail(text);
}

interface Change {
  version: string;
  styles: string[];
}

/** Waits for what comes soon, unless something is broken: then the test is to fail, not to hang. */
async function inTime<T>(promise: Promise<T>): Promise<T> {
  const late = Promise.withResolvers<never>();
  const timer = setTimeout(() => late.reject(new Error("it did not come")), 30_000);
  try {
    return await Promise.race([promise, late.promise]);
  } finally {
    clearTimeout(timer);
  }
}

/** Listens for changes since a version. */
async function listen(handler: Handler, version: string) {
  const response = await handler(new Request(`http://localhost/.live-reload/events?${version}`));
  assertEquals([response.status, response.headers.get("content-type")], [200, "text/event-stream"]);
  assertEquals(response.headers.get("cache-control"), "no-store");
  const reader = response.body!.pipeThrough(new TextDecoderStream()).getReader();
  return {
    /** Returns the next change, or undefined at the end of the stream. */
    async next(): Promise<Change | undefined> {
      const { value, done } = await inTime(reader.read());
      if (done) return undefined;
      const [, data] = /^data:(.*)\n\n$/.exec(value) ?? fail(value);
      return JSON.parse(data!);
    },
    cancel: () => reader.cancel(),
  };
}

/** Writes files in one go, so that nothing else of this process comes in between. */
function write({ root }: Site, tree: Record<string, string>): void {
  for (const [name, text] of Object.entries(tree)) {
    Deno.mkdirSync(dirname(join(root, name)), { recursive: true });
    Deno.writeTextFileSync(join(root, name), text);
  }
}

Deno.test("handler() adds the script to every page, and to nothing else", async () => {
  const wide = new Uint8Array([0xff, 0xfe, 0x3c, 0, 0x70, 0, 0x3e, 0]);
  const tree = {
    "index.html": "<p>héllo",
    "index.html.br": "precompressed",
    "old.HTM": "<p>old",
    "empty.html": "",
    "sub/404.html": "<p>none",
    "folder.html/a.txt": "a",
    "folder.ts/a.txt": "a",
    "big.html": "<p>".repeat(1 << 20),
    "utf-16.html": wide,
    "a.txt": "<p>a",
    "a.css": "a { b: c }",
    "a.css.br": "precompressed",
    "a.js": "0".repeat(5000),
    "a.svg": "<svg/>",
    "a.xhtml": "<html/>",
    "page": "<!doctype html>",
    "big.bin": new Uint8Array(3 << 20),
  };
  await using site = await lay(tree);
  using live = startLive(site, { spa: true });
  const accepted = { "accept-encoding": "br, gzip, zstd" };
  for (
    const [path, status, text] of [
      ["/", 200, tree["index.html"]],
      ["/index", 200, tree["index.html"]],
      ["/app/path", 200, tree["index.html"]],
      ["/old.HTM", 200, tree["old.HTM"]],
      ["/empty.html", 200, ""],
      ["/big", 200, tree["big.html"]],
      ["/sub/none.js", 404, tree["sub/404.html"]],
      ["/folder.html/", 200, undefined],
      ["/folder.ts/", 200, undefined],
    ] as const
  ) {
    const answer = await get(live.handler, path, accepted);
    assertEquals(answer.status, status, path);
    const isStandIn = status === 404 || text === undefined; // for a page that may come back
    const element = `<script async src="/.live-reload/script.js?${versionIn(answer.text)}"${
      isStandIn ? " data-stand-in" : ""
    }></script>\n`;
    assert(answer.text.endsWith(element));
    if (text !== undefined) assert(answer.text === text + element, path);
    else assertStringIncludes(answer.text, "a.txt");
    assertEquals(answer.headers.get("content-length"), `${encoder.encode(answer.text).length}`, path);
    assertEquals(answer.headers.get("content-type"), "text/html; charset=UTF-8");
    const head = await ask(live.handler, path, { method: "HEAD", headers: accepted });
    assertEquals([head.status, [...head.headers], head.text], [status, [...answer.headers], ""], path);
  }
  for (const name of ["utf-16.html", "a.txt", "a.css", "a.js", "a.svg", "a.xhtml", "page", "big.bin"] as const) {
    const response = await live.handler(new Request(`http://localhost/${name}`));
    const content = tree[name];
    const bytes = typeof content === "string" ? encoder.encode(content) : content;
    assertEquals(await response.bytes(), bytes, name);
    assertEquals(response.headers.get("content-length"), `${bytes.length}`, name);
    assertEquals(response.headers.get("accept-ranges"), "bytes", name);
  }
  assertEquals((await get(live.handler, "/a.css", accepted)).text, "precompressed");
  assertEquals((await get(live.handler, "/none.js")).text, "404 Not Found\n");

  // A fragment that a script asks for is not to have it, nor what the user declares to be something else.
  for (
    const [destination, isDocument] of [["empty", false], ["iframe", true], ["document", true], [
      "empty",
      false,
    ]] as const
  ) {
    const { text, headers } = await whenSettled(() => get(live.handler, "/", { "sec-fetch-dest": destination }));
    assertEquals(text === tree["index.html"], !isDocument, destination);
    assertEquals(headers.get("content-length"), `${encoder.encode(text).length}`, destination);
  }
  for (const field of [["Content-Type", "text/plain"], ["Content-Encoding", "gzip"]] as [string, string][]) {
    using declared = startLive(site, { headers: [field] });
    assertEquals((await get(declared.handler, "/")).text, tree["index.html"]);
  }

  // What is too big for memory comes whole, whatever range is asked for.
  const whole = await get(live.handler, "/big", { range: "bytes=0-9" });
  assertEquals([whole.status, versionIn(whole.text)], [200, versionIn((await get(live.handler, "/")).text)]);
  await using server = start(live.handler);
  const overHttp = await rawGet(server.port, "/big");
  assert(overHttp.text === whole.text);
  const growing = await fetch(`http://127.0.0.1:${server.port}/big`);
  await Deno.truncate(join(site.root, "big.html"), 4 << 20);
  assert(versionIn(await growing.text()));
});

Deno.test("handler() sends ranges of what it sends, with live reload", async () => {
  await using site = await lay({ "index.html": "<p>page", "a.txt": "hello" });
  using live = startLive(site);
  const { text } = await get(live.handler, "/");
  const length = encoder.encode(text).length;
  const part = await get(live.handler, "/", { range: "bytes=3-" });
  assertEquals([part.status, part.text], [206, text.slice(3)]);
  assertEquals(part.headers.get("content-range"), `bytes 3-${length - 1}/${length}`);
  const past = await get(live.handler, "/", { range: `bytes=${length}-` });
  assertEquals([past.status, past.headers.get("content-range")], [416, `bytes */${length}`]);
  const other = await get(live.handler, "/a.txt", { range: "bytes=-2" });
  assertEquals([other.status, other.text, other.headers.get("content-range")], [206, "lo", "bytes 3-4/5"]);
  const resumed = await get(live.handler, "/a.txt", { range: "bytes=-2", "if-range": new Date().toUTCString() });
  assertEquals([resumed.status, resumed.text], [200, "hello"]);
});

Deno.test("handler() lets nothing be stored or validated, with live reload", async () => {
  await using site = await lay({ "index.html": "<p>page", "a.txt": "hello", "sub/x": "x", "404.html": "none" });
  using live = startLive(site, { maxAge: 60, listing: false });
  const { headers: plain } = await get(createHandler({ root: site.root }), "/a.txt");
  const conditions = {
    "if-none-match": plain.get("etag")!,
    "if-modified-since": plain.get("last-modified")!,
  };
  for (
    const [path, status, init] of [
      ["/", 200, { headers: conditions }],
      ["/a.txt", 200, { headers: conditions }],
      ["/a.txt", 200, { headers: { "if-none-match": "*" } }],
      ["/a.txt", 200, { headers: conditions, method: "HEAD" }],
      ["/a.txt", 206, { headers: { ...conditions, range: "bytes=0-1" } }],
      ["/a.txt", 416, { headers: { range: "bytes=9-" } }],
      ["/a.txt", 412, { headers: { "if-match": plain.get("etag")! } }],
      ["/sub", 301, {}],
      ["/sub/", 404, {}],
      ["/nothing", 404, {}],
      ["/%zz", 400, {}],
      ["/a.txt", 204, { method: "OPTIONS" }],
      ["/a.txt", 405, { method: "POST" }],
      ["/.live-reload/script.js", 200, {}],
      ["/.live-reload/events", 200, { method: "HEAD" }],
    ] as const
  ) {
    const { status: given, headers } = await ask(live.handler, path, init);
    const fields = ["cache-control", "etag", "last-modified"].map((name) => headers.get(name));
    assertEquals([given, ...fields], [status, "no-store", null, null], path);
  }
  using own = startLive(site, { headers: [["Cache-Control", "private"]] });
  assertEquals((await get(own.handler, "/a.txt")).headers.get("cache-control"), "private");
});

Deno.test("handler() serves the script from a path of its own, with live reload alone", async () => {
  await using site = await lay({ "a.txt": "a", ".live-reload/events": "the user's", ".live-reload/x": "x" });
  using live = startLive(site);
  const { status, headers, text } = await get(live.handler, "/.live-reload/script.js?whatever");
  assertEquals([status, headers.get("content-type")], [200, "text/javascript; charset=UTF-8"]);
  assertEquals(headers.get("content-length"), `${encoder.encode(text).length}`);
  new Function(text); // throws where its syntax is wrong
  const head = await ask(live.handler, "/.live-reload/script.js", { method: "HEAD" });
  assertEquals([[...head.headers], head.text], [[...headers], ""]);
  assertEquals((await get(live.handler, "/.live-reload/x")).status, 404);
  assertEquals((await get(live.handler, "/.live-reload/")).status, 404);
  assertEquals((await ask(live.handler, "/.live-reload/events", { method: "POST" })).status, 405);
  const handler = createHandler({ root: site.root });
  for (const name of ["script.js", "events", "x"]) {
    assertEquals((await get(handler, `/.live-reload/${name}`)).status, 404);
  }

  using asked = startLive(site, { auth: "me:secret" });
  for (const name of ["script.js", "events"]) {
    assertEquals((await get(asked.handler, `/.live-reload/${name}`)).status, 401);
  }
});

Deno.test("handler() tells a change once, after the last of many", async () => {
  await using site = await lay({ "index.html": "<p>page" });
  using live = startLive(site);
  const page = await whenSettled(() => get(live.handler, "/"));
  const events = await listen(live.handler, versionIn(page.text));
  for (let i = 0; i < 500; i++) write(site, { [`assets/${i % 20}/${i}.js`]: `${i}` });
  const first = await events.next();
  assertEquals(first?.styles, []);
  assertEquals(versionIn((await whenSettled(() => get(live.handler, "/"))).text), first?.version);
  // Were there another of the same burst, it would come before this one.
  write(site, { "last.css": "" });
  assertEquals((await events.next())?.styles, ["/last.css"]);
});

Deno.test("handler() waits until nothing changes any more", async () => {
  await using site = await lay({ "index.html": "<p>page" });
  using live = startLive(site);
  const events = await listen(live.handler, versionIn((await get(live.handler, "/")).text));
  const timers = new Map<number, { fire: () => void; delay: number }>();
  let started = Promise.withResolvers<void>();
  const { setTimeout, clearTimeout } = globalThis;
  const { error } = console;
  const told: string[] = [];
  try {
    console.error = (line: string) => told.push(line);
    Object.assign(globalThis, {
      setTimeout: (fire: () => void, delay: number) => {
        timers.set(timers.size + 1, { fire, delay });
        started.resolve();
        return timers.size;
      },
      clearTimeout: (id: number) => timers.get(id) && timers.set(id, { fire: () => fail("it was cleared"), delay: 0 }),
    });
    for (const name of ["a.txt", "b.txt"]) {
      write(site, { [name]: "" });
      await started.promise;
      started = Promise.withResolvers();
    }
    assertEquals(told, []);
    // When it goes on and on, it is said once that nothing reloads.
    await whenSettled(async () => {
      for (const name of ["c.txt", "d.txt"]) {
        write(site, { [name]: "" });
        await started.promise;
        started = Promise.withResolvers();
      }
    });
    assertEquals(told, ["http-server: files keep changing; pages reload when they come to rest"]);
  } finally {
    Object.assign(globalThis, { setTimeout, clearTimeout });
    console.error = error;
  }
  const [last, ...cleared] = [...timers.values()].reverse();
  assert(cleared.length > 0);
  assert(last!.delay >= 50 && cleared.every(({ delay }) => delay === 0));
  last!.fire();
  assertEquals((await events.next())?.styles, []);
});

Deno.test("handler() tells which style sheets changed, where nothing else did", async () => {
  await using site = await lay({ "index.html": "<p>page", "a.css": "a", "sub é#?/b.css": "b", "c.txt": "c" });
  using live = startLive(site);
  const events = await listen(live.handler, versionIn((await get(live.handler, "/")).text));
  const file = (name: string) => join(site.root, name);
  const cases: [string[], () => void][] = [
    [["/a.css"], () => write(site, { "a.css": "A" })],
    [["/a.css", "/sub é#?/b.css"], () => write(site, { "a.css": "B", "sub é#?/b.css": "B" })],
    [["/a.css"], () => {
      write(site, { "a.css.tmp": "C" });
      Deno.renameSync(file("a.css.tmp"), file("a.css"));
    }],
    [["/a.css"], () => {
      Deno.renameSync(file("a.css"), file("a.css~"));
      write(site, { "a.css": "D", "4913": "", "a.css.map": "{}" });
      Deno.removeSync(file("a.css~"));
      Deno.removeSync(file("4913"));
    }],
    [[], () => write(site, { "a.css": "E", "c.txt": "E" })],
    [[], () => Deno.removeSync(file("c.txt"))],
    [[], () => write(site, { "a.css.map": "{ }" })],
    [[], () => write(site, { "a.cssx": "" })],
    [[], () => write(site, Object.fromEntries(Array.from({ length: 51 }, (_, i) => [`${i}.css`, ""])))],
  ];
  for (const [styles, change] of cases) {
    change();
    assertEquals((await events.next())?.styles.sort(), styles, `${change}`);
  }
});

Deno.test("handler() tells every kind of change under the root, but of what is hidden or brief", async () => {
  await using site = await lay({ "index.html": "<p>page", "sub/a.txt": "a", "sub/b.txt": "b", ".git/HEAD": "" });
  using live = startLive(site);
  const events = await listen(live.handler, versionIn((await get(live.handler, "/")).text));
  const file = (name: string) => join(site.root, name);
  const changes = [
    () => write(site, { "sub/a.txt": "A" }),
    () => write(site, { "new/deep/folder/a.txt": "a" }),
    () => write(site, { "new/deep/folder/a.txt": "A" }),
    () => Deno.renameSync(file("sub/b.txt"), file("sub/c.txt")),
    () => Deno.renameSync(file("sub"), file("moved")),
    () => write(site, { "moved/a.txt": "B" }),
    () => Deno.removeSync(file("moved/c.txt")),
    () => Deno.removeSync(file("new"), { recursive: true }),
    () => Deno.utimeSync(file("index.html"), 0, 0),
    () => write(site, { ".well-known/a.txt": "a" }),
  ];
  for (const change of changes) {
    change();
    assertEquals((await events.next())?.styles, [], `${change}`);
  }
  // To read is no change, nor is what nobody could see: were they told, it would be before the style sheet.
  await get(live.handler, "/moved/a.txt");
  write(site, { ".git/HEAD": "changed", "moved/.a.swp": "", "brief.txt": "" });
  Deno.removeSync(file("brief.txt"));
  write(site, { "a.css": "" });
  assertEquals((await events.next())?.styles, ["/a.css"]);

  using all = startLive(site, { dotfiles: true });
  const allEvents = await listen(all.handler, versionIn((await get(all.handler, "/")).text));
  write(site, { ".git/HEAD": "again" });
  assertEquals((await allEvents.next())?.styles, []);
});

Deno.test("handler() tells at once who comes with an old page", async () => {
  await using site = await lay({ "index.html": "<p>page" });
  using live = startLive(site);
  const page = await get(live.handler, "/");
  const events = await listen(live.handler, versionIn(page.text));
  write(site, { "index.html": "<p>changed" });
  const change = await events.next();
  const late = await listen(live.handler, versionIn(page.text));
  assertEquals(await late.next(), { version: change!.version, styles: [] });
  using restarted = startLive(site);
  assertEquals((await (await listen(restarted.handler, versionIn(page.text))).next())?.styles, []);
});

Deno.test("handler() takes a page for old that changed while it was read", async () => {
  await using site = await lay({ "index.html": "<p>page" });
  using live = startLive(site);
  const events = await listen(live.handler, versionIn((await get(live.handler, "/")).text));
  const { readFile } = Deno;
  try {
    Deno.readFile = async (...args) => {
      const bytes = await readFile(...args);
      write(site, { "index.html": "<p>changed" });
      await events.next();
      return bytes;
    };
    const { text } = await get(live.handler, "/");
    assertStringIncludes(text, "<p>page");
    assertEquals((await (await listen(live.handler, versionIn(text))).next())?.styles, []);
  } finally {
    Deno.readFile = readFile;
  }
});

/** Returns once something has looked at a folder that isn't there, and said nothing. */
async function whenMissed(folder: string): Promise<void> {
  const { statSync } = Deno;
  const { error } = console;
  const missed = Promise.withResolvers<void>();
  try {
    console.error = missed.reject;
    Deno.statSync = (path) => {
      try {
        return statSync(path);
      } catch (error) {
        if (path === folder) setTimeout(missed.resolve);
        throw error;
      }
    };
    await inTime(missed.promise);
  } finally {
    Object.assign(Deno, { statSync });
    console.error = error;
  }
}

Deno.test({
  name: "handler() follows the folder that takes the root's place",
  ignore: isWindows,
  async fn() {
    await using site = await lay({
      "one/index.html": "<p>one",
      "two/index.html": "<p>two",
      "current": { link: "one" },
    });
    const root = join(site.root, "current");
    using live = startLive({ ...site, root });
    const text = async () => (await get(live.handler, "/")).text;
    let version = versionIn(await text());
    const isTold = async (change: () => void) => {
      const events = await listen(live.handler, version);
      change();
      version = (await events.next())!.version;
      await events.cancel();
    };
    await isTold(() => write(site, { "one/index.html": "<p>uno" }));
    await isTold(() => {
      Deno.removeSync(root);
      Deno.symlinkSync("two", root);
    });
    assertStringIncludes(await text(), "<p>two");
    await isTold(() => write(site, { "two/index.html": "<p>dos" }));
    // Once for what goes and what comes, be it at once or later.
    const remake = () => {
      Deno.removeSync(join(site.root, "two"), { recursive: true });
      write(site, { "two/index.html": "<p>deux" });
    };
    await isTold(remake);
    const page = await get(live.handler, "/");
    assertEquals(versionIn(page.text), version);
    const events = await listen(live.handler, version);
    write(site, { "two/a.css": "" }); // were the folder told once more, it would be before this
    assertEquals((await events.next())?.styles, ["/a.css"]);
    const missed = whenMissed(root);
    Deno.removeSync(join(site.root, "two"), { recursive: true });
    assertEquals((await get(live.handler, "/")).status, 404);
    await missed;
    write(site, { "two/index.html": "<p>trois" });
    version = (await events.next())!.version;
    await events.cancel();
    await isTold(() => write(site, { "two/index.html": "<p>zwei" }));
    assertStringIncludes(await text(), "<p>zwei");
  },
});

Deno.test("handler() ends its event streams when the signal aborts, and starts no new one", async () => {
  await using site = await lay({ "index.html": "<p>page" });
  using live = startLive(site);
  const page = await get(live.handler, "/");
  const listeners = await Promise.all([1, 2].map(() => listen(live.handler, versionIn(page.text))));
  const left = await listen(live.handler, versionIn(page.text));
  await left.cancel();
  await ask(live.handler, "/.live-reload/events", { method: "HEAD" });
  write(site, { "index.html": "<p>changed" });
  for (const events of listeners) assertEquals((await events.next())?.styles, []);
  live.stop.abort();
  for (const events of listeners) assertEquals(await events.next(), undefined);
  assertEquals((await get(live.handler, "/.live-reload/events")).text, ""); // it ends at once
  assertEquals((await get(live.handler, "/")).status, 200);
});

Deno.test("handler() ends the event stream of whoever does not read it", async () => {
  await using site = await lay({ "a.css": "" });
  using live = startLive(site);
  const events = await listen(live.handler, "old");
  const { version } = (await events.next())!;
  const silent = await listen(live.handler, version);
  for (let i = 0; i < 15; i++) {
    write(site, { "a.css": `${i}` });
    await events.next();
  }
  const unread = [];
  for (let change; (change = await silent.next()) !== undefined;) unread.push(change);
  assert(unread.length >= 10 && unread.length < 15, `${unread.length}`);
});

Deno.test("handler() tries again to watch the folder that takes the root's place", async () => {
  await using site = await lay({ "dist/index.html": "<p>page" });
  const root = join(site.root, "dist");
  const { watchFs } = Deno;
  const { error } = console;
  const told: string[] = [];
  try {
    console.error = (line: string) => told.push(line);
    using live = startLive({ ...site, root });
    const events = await listen(live.handler, versionIn((await get(live.handler, "/")).text));
    let failures = 2;
    Deno.watchFs = (...args) => {
      if (failures-- > 0) throw new Error("OS file watch limit reached.");
      return watchFs(...args);
    };
    Deno.removeSync(root, { recursive: true });
    write(site, { "dist/index.html": "<p>again" });
    assertEquals((await events.next())?.styles, []);
    write(site, { "dist/a.css": "" });
    assertEquals((await events.next())?.styles, ["/a.css"]);
  } finally {
    Deno.watchFs = watchFs;
    console.error = error;
  }
  assertEquals(told, [`http-server: ${root} can't be watched: OS file watch limit reached`]);
});

Deno.test("handler() leaves nothing running when the signal aborts", async () => {
  await using site = await lay({ "index.html": "<p>page" });
  const { setTimeout, setInterval, clearTimeout, clearInterval } = globalThis;
  const { watchFs } = Deno;
  const running = new Set<unknown>();
  const started = Promise.withResolvers<void>();
  const remember = <T>(thing: T): T => {
    running.add(thing);
    return thing;
  };
  let last = () => {};
  try {
    Object.assign(globalThis, {
      setInterval: (...args: Parameters<typeof setInterval>) => remember(setInterval(...args)),
      setTimeout: (fire: () => void) => {
        started.resolve();
        last = fire;
        return remember(-running.size - 1);
      },
      clearInterval: (id: number) => running.delete(id) && clearInterval(id),
      clearTimeout: (id: number) => running.delete(id) && clearTimeout(id),
    });
    Deno.watchFs = (...args) => {
      const watcher = remember(watchFs(...args));
      const close = watcher.close.bind(watcher);
      return Object.assign(watcher, { close: () => running.delete(watcher) && close() });
    };
    using live = startLive(site);
    write(site, { "index.html": "<p>changed" });
    await started.promise;
    assertEquals(running.size, 3);
    live.stop.abort();
    assertEquals(running.size, 2); // the watcher, and the timer that closes it
    last();
    assertEquals(running.size, 1);
  } finally {
    Object.assign(globalThis, { setTimeout, setInterval, clearTimeout, clearInterval });
    Deno.watchFs = watchFs;
  }
});

Deno.test("handler() forgets who has gone away, and who asked with HEAD", async () => {
  await using site = await lay({ "index.html": "<p>page" });
  using live = startLive(site);
  const { ReadableStream } = globalThis;
  let forgotten = Promise.withResolvers<void>();
  try {
    globalThis.ReadableStream = class<R> extends ReadableStream<R> {
      constructor(source: UnderlyingDefaultSource<R>) {
        super({
          ...source,
          cancel: (reason) => {
            forgotten.resolve();
            return source.cancel?.(reason);
          },
        });
      }
    } as typeof ReadableStream;
    const events = await live.handler(new Request("http://localhost/.live-reload/events"));
    await events.body!.cancel();
    await inTime(forgotten.promise);
    forgotten = Promise.withResolvers();
    await ask(live.handler, "/.live-reload/events", { method: "HEAD" });
    await inTime(forgotten.promise);
  } finally {
    globalThis.ReadableStream = ReadableStream;
  }
});

Deno.test("handler() says what it can't watch, and goes on", async () => {
  await using site = await lay({ "index.html": "<p>page" });
  const { watchFs } = Deno;
  const { error } = console;
  const told: string[] = [];
  try {
    console.error = (line: string) => told.push(line);
    Deno.watchFs = () => {
      throw new Error("OS file watch limit reached. about [...]");
    };
    const message = `${site.root} can't be watched: OS file watch limit reached. about [...]`;
    assertThrows(() => createHandler({ root: site.root, live: true }), Error, message);
    Deno.watchFs = (...args) => {
      const watcher = watchFs(...args);
      const access = { done: false, value: { kind: "access", paths: [join(site.root, "index.html")] } };
      const denied = () => Promise.reject(new Error("Permission denied"));
      const first = [denied, denied, () => Promise.resolve(access)];
      const next = () => first.shift()?.() ?? watcher[Symbol.asyncIterator]().next();
      const iterator = { next, close: () => watcher.close() };
      return Object.assign(iterator, { [Symbol.asyncIterator]: () => iterator }) as unknown as Deno.FsWatcher;
    };
    using live = startLive(site);
    const events = await listen(live.handler, versionIn((await get(live.handler, "/")).text));
    assertEquals((await events.next())?.styles, []); // whatever it was that can't be told
    write(site, { "a.css": "" });
    assertEquals((await events.next())?.styles, ["/a.css"]);
  } finally {
    Deno.watchFs = watchFs;
    console.error = error;
  }
  assertEquals(told, ["http-server: a change may be missed: Permission denied"]);
});

// Command line ------------------------------------------------------------------------------------------------------

const here = dirname(fromFileUrl(import.meta.url));
const script = join(here, "server.ts");

/** The card's own permissions. */
const PERMISSIONS = ["--allow-net", "--allow-read"];

interface Finished {
  code: number;
  stdout: string;
  stderr: string;
}

/** Runs http-server to its end; what would be a server fails the test. */
async function run(args: string[], permissions = PERMISSIONS): Promise<Finished> {
  const { code, stdout, stderr } = await new Deno.Command(Deno.execPath(), {
    args: ["run", "--quiet", "--no-prompt", ...permissions, script, ...args],
    stdin: "null",
  }).output();
  return { code, stdout: decoder.decode(stdout), stderr: decoder.decode(stderr) };
}

/** A server in a process of its own, known by the first line that it prints. */
class Served implements AsyncDisposable {
  readonly url: string;
  readonly port: number;
  #child: Deno.ChildProcess;
  #rest: Promise<string>;
  #stderr: Promise<string>;

  private constructor(
    child: Deno.ChildProcess,
    readonly firstLine: string,
    rest: Promise<string>,
    stderr: Promise<string>,
  ) {
    [this.url = ""] = /https?:\/\/\S+/.exec(firstLine) ?? [];
    this.port = Number(new URL(this.url).port);
    this.#child = child;
    this.#rest = rest;
    this.#stderr = stderr;
  }

  static async start(args: string[], { permissions = PERMISSIONS, cwd = Deno.cwd() } = {}): Promise<Served> {
    const child = new Deno.Command(Deno.execPath(), {
      args: ["run", "--quiet", "--no-prompt", ...permissions, script, ...args],
      stdin: "null",
      stdout: "piped",
      stderr: "piped",
      cwd,
    }).spawn();
    const reader = child.stdout.pipeThrough(new TextDecoderStream()).getReader();
    const stderr = new Response(child.stderr).text();
    let text = "";
    while (!text.includes("\n")) {
      const { value, done } = await reader.read();
      if (done) fail(`it did not start: ${await stderr}`);
      text += value;
    }
    const firstLine = text.slice(0, text.indexOf("\n"));
    return new Served(child, firstLine, readRest(reader, text.slice(firstLine.length + 1)), stderr);
  }

  /** Sends a signal, if the server has not ended. */
  signal(signal: Deno.Signal): void {
    try {
      this.#child.kill(signal);
    } catch (error) {
      if (!(error instanceof TypeError)) throw error;
    }
  }

  async finish(): Promise<Finished> {
    const { code } = await this.#child.status;
    return { code, stdout: await this.#rest, stderr: await this.#stderr };
  }

  /** Returns once the server takes no new connections. */
  async isClosed(): Promise<void> {
    for (;;) {
      try {
        (await Deno.connect({ hostname: "127.0.0.1", port: this.port })).close();
      } catch {
        return;
      }
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.signal("SIGKILL");
    await this.finish();
  }
}

async function readRest(reader: ReadableStreamDefaultReader<string>, text: string): Promise<string> {
  for (let chunk; !(chunk = await reader.read()).done;) text += chunk.value;
  return text;
}

Deno.test("main() serves the www folder beside the script, from wherever it is started", async () => {
  await using site = await lay({});
  await using server = await Served.start(["--port", "0"], { cwd: site.root });
  assertEquals(server.firstLine, `Serving ${join(here, "www")} at http://localhost:${server.port}/`);
  assertEquals(await (await fetch(server.url)).text(), await Deno.readTextFile(join(here, "www/index.html")));
  const missing = await fetch(`${server.url}nothing`);
  assertEquals(missing.status, 404);
  await missing.body?.cancel();
  if (isWindows) return;
  server.signal("SIGTERM");
  const { code, stdout, stderr } = await server.finish();
  assertEquals([code, stderr], [0, ""]);
  assertEquals(stdout.trimEnd().split("\n").map((line) => line.split(" ").slice(1, 5).join(" ")), [
    "127.0.0.1 GET / 200",
    "127.0.0.1 GET /nothing 404",
  ]);
});

Deno.test({
  name: "main() needs no more than its own port and its own folder",
  ignore: isWindows,
  async fn() {
    await using site = await lay({ "www/a.txt": "a", "www/sub/b.txt": "b", "www/secret.txt": "SECRET" });
    const root = join(site.root, "www");
    const secret = join(root, "secret.txt");
    const permissions = ["--allow-net=0.0.0.0:0", `--allow-read=${root}`, `--deny-read=${secret}`];
    await using server = await Served.start(["--port", "0", "--quiet", root], { permissions });
    assertEquals(await (await fetch(`${server.url}a.txt`)).text(), "a");
    assertStringIncludes(await (await fetch(`${server.url}sub/`)).text(), "./b.txt");
    const forbidden = await fetch(`${server.url}secret.txt`);
    assertEquals([forbidden.status, await forbidden.text()], [403, "403 Forbidden\n"]);
    server.signal("SIGINT");
    assertEquals(await server.finish(), { code: 0, stdout: "", stderr: "" });
  },
});

Deno.test("main() passes its options to the handler", async () => {
  await using site = await lay({ ".env": "dot", "index.html": "app", "sub/a.txt": "a" });
  await using server = await Served.start([
    ...["--port=0", "-a", "127.0.0.1", "-q", "--dotfiles", "--spa", "--cors", "--no-listing", "--max-age", "60"],
    ...["--header", "X-One: 1:1", "--header=X-Two:2", "--", site.root],
  ]);
  assertEquals(server.firstLine, `Serving ${site.root} at http://127.0.0.1:${server.port}/`);
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
  const folder = await fetch(`${server.url}sub/`);
  assertEquals(folder.status, 404);
  await folder.body?.cancel();
});

Deno.test("main() takes the next port where nobody named one, and never replaces a named one", async () => {
  using taken = Deno.listen({ hostname: "0.0.0.0", port: 0 });
  const { port } = taken.addr as Deno.NetAddr;
  assertEquals(await run(["--port", `${port}`]), {
    code: 1,
    stdout: "",
    stderr: `http-server: port ${port} is taken; name another with --port, or --port 0 for any.\n`,
  });

  // Whoever has the default port, this test or another program: it is taken.
  using _default = tryListen(8080);
  await using server = await Served.start([]);
  assert(server.port > 8080, `${server.port}`);
  assertStringIncludes(server.firstLine, `at http://localhost:${server.port}/ (port 8080 is taken)`);
});

function tryListen(port: number): Deno.Listener | undefined {
  try {
    return Deno.listen({ hostname: "0.0.0.0", port });
  } catch {
    return undefined;
  }
}

Deno.test("main() listens on IPv6, shown in brackets", async () => {
  await using site = await lay({ "a.txt": "a" });
  for (const host of ["::1", "[::1]"]) {
    await using server = await Served.start(["--port", "0", "--host", host, site.root]);
    assertEquals(server.url, `http://[::1]:${server.port}/`);
    assertEquals(await (await fetch(`${server.url}a.txt`)).text(), "a");
  }
  await using everywhere = await Served.start(["--port", "0", "--host", "[::]", site.root]);
  assertEquals(everywhere.url, `http://localhost:${everywhere.port}/`);
});

/** Runs `main` in this process, and returns its exit code and what it said. */
async function runMain(args: string[]): Promise<Finished> {
  const { log, error } = console;
  const said = { stdout: "", stderr: "" };
  try {
    console.log = (text: string) => said.stdout += `${text}\n`;
    console.error = (text: string) => said.stderr += `${text}\n`;
    return { code: await main(args), ...said };
  } finally {
    Object.assign(console, { log, error });
  }
}

Deno.test("main() answers a wrong command line with one sentence and exit code 2", async (t) => {
  await using site = await lay({ "file.txt": "x", "cert.pem": "no certificate" });
  const missing = join(site.root, "missing");
  const file = join(site.root, "file.txt");
  const cases: [string[], string][] = [
    [["--nope"], "unknown option '--nope'; --help lists the options."],
    [["-x"], "unknown option '-x'; --help lists the options."],
    [["--listing"], "unknown option '--listing'; --help lists the options."],
    [["--spa=yes"], "option '--spa' does not take an argument; --help lists the options."],
    [["--port"], "option '-p, --port <value>' argument missing; --help lists the options."],
    [["--port", "--spa"], "option '--port' argument is missing; --help lists the options."],
    [["--port", "70000"], '--port takes a whole number from 0 to 65535, not "70000".'],
    [["--port="], '--port takes a whole number from 0 to 65535, not "".'],
    [["--port=-1"], '--port takes a whole number from 0 to 65535, not "-1".'],
    [["-p", "80a"], '--port takes a whole number from 0 to 65535, not "80a".'],
    [["-p", "1e3"], '--port takes a whole number from 0 to 65535, not "1e3".'],
    [["--max-age", "1.5"], '--max-age takes a whole number from 0 to 2147483648, not "1.5".'],
    [["--host", ""], "--host takes an address to listen on, such as 127.0.0.1."],
    [["--header", "nonsense"], '--header takes "Name: value", not "nonsense".'],
    [["--header", ": x"], '--header takes "Name: value", not ": x".'],
    [["--header", "A b: x"], '--header takes "Name: value", not "A b: x".'],
    [["--header", "A: x\r\nB: y"], '--header takes "Name: value", not "A: x\\r\\nB: y".'],
    [["--header", "A: \x01"], '--header can\'t send the control characters in "A: \\u0001".'],
    [["--header", "A: \x7f"], '--header can\'t send the control characters in "A: \x7f".'],
    [
      ["--header", "Content-Length: 5"],
      "--header can't set Content-Length: the server alone knows what is right there.",
    ],
    [["--cert", "cert.pem"], "--cert and --key take a file each, and HTTPS needs both."],
    [["--cert=", "--key="], "--cert and --key take a file each, and HTTPS needs both."],
    [["--key", "key.pem"], "--cert and --key take a file each, and HTTPS needs both."],
    [["--live", "--max-age", "1"], "--live lets browsers keep nothing, so --max-age can't go with it."],
    [["--auth"], "option '--auth <value>' argument missing; --help lists the options."],
    ...["", ":", "user:", "password", "user:pass\nword", "us\x7fer:password"].map((auth): [string[], string] => [
      ["--auth", auth],
      "--auth takes USER:PASSWORD, with a colon, a password and no control characters.",
    ]),
    [["a", "b"], "one folder is served, not 2: a, b."],
    [[""], "the folder's name is empty."],
    [[missing], `there is no folder ${missing}; name the folder to serve.`],
    [[file], `${file} is a file; name the folder to serve.`],
    [[join(file, "x")], `there is no folder ${join(file, "x")}; name the folder to serve.`],
  ];
  // The address is no interface's, so that no case can become a server by mistake.
  for (const [args, sentence] of cases) {
    await t.step(args.join(" ") || "an empty name", async () => {
      assertEquals(await runMain(["--port", "0", "--host", "192.0.2.1", ...args]), {
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

Deno.test("main() answers what the machine refuses with one sentence and exit code 1", async (t) => {
  await using site = await lay({ "cert.pem": "no certificate", "www/a.txt": "a" });
  const cert = join(site.root, "cert.pem");
  const missing = join(site.root, "missing.pem");
  const www = join(here, "www");
  const cases: [string[], string[], RegExp][] = [
    [[], [], /^http-server: it has no permission to read .*www; run it with "deno run --allow-net --allow-read"\.\n$/],
    [
      [],
      [`--allow-read=${www}`],
      /^http-server: it has no permission to listen on 0\.0\.0\.0:8080; run it with "deno run --allow-net=0\.0\.0\.0:8080 --allow-read"\.\n$/,
    ],
    [
      [site.root],
      ["--allow-net", `--allow-read=${www}`],
      /^http-server: it has no permission to read .*; run it with ".*"\.\n$/,
    ],
    [["--host", "192.0.2.1"], PERMISSIONS, /^http-server: it can't listen on 192\.0\.2\.1:0: .*\.\n$/],
    [["--host", "127.0.0.1:80"], ["--allow-net=127.0.0.1", "--allow-read"], /^http-server: it can't listen on .*\.\n$/],
    [["--host", "no host"], PERMISSIONS, /^http-server: it can't listen on no host:0: .*\.\n$/],
    [
      ["--cert", cert, "--key", missing],
      PERMISSIONS,
      /^http-server: the file of --key can't be read: .*missing\.pem'\.\n$/,
    ],
    [
      ["--cert", cert, "--key", cert],
      PERMISSIONS,
      /^http-server: it can't listen on 0\.0\.0\.0:0 with .*cert\.pem and .*cert\.pem: .*\.\n$/,
    ],
  ];
  for (const [args, permissions, sentence] of cases) {
    await t.step([...permissions, ...args].join(" "), async () => {
      const { code, stdout, stderr } = await run(
        permissions.includes("--allow-net") ? ["--port", "0", ...args] : args,
        permissions,
      );
      assertMatch(stderr, sentence);
      assertEquals([code, stdout], [1, ""]);
    });
  }
  await t.step("an unreadable folder", async () => {
    if (isWindows) return;
    await chmod(join(site.root, "www"), 0);
    const { code, stderr } = await withoutRights(() => runMain(["--port", "0", join(site.root, "www")]));
    assertMatch(stderr, /^http-server: the folder .* can't be read: .*\.\n$/);
    assertEquals(code, 1);
  });
});

Deno.test({
  name: "main() answers a folder that it can't watch with one sentence and exit code 1",
  ignore: !isLinux,
  async fn() {
    await using site = await lay({ "a.txt": "a", "locked/b.txt": "b" });
    await chmod(join(site.root, "locked"), 0);
    const nowhere = ["--port", "0", "--host", "192.0.2.1"]; // so that it can't become a server by mistake
    const { code, stdout, stderr } = await withoutRights(() => runMain([...nowhere, "--live", site.root]));
    await chmod(join(site.root, "locked"), 0o755);
    assertMatch(stderr, /^http-server: \/.* can't be watched: Permission denied .*locked"\]\.\n$/);
    assertEquals([code, stdout], [1, ""]);
  },
});

Deno.test({
  name: "main() says that pages reload and that it asks for the password, and stops though a page listens",
  ignore: isWindows,
  async fn() {
    await using site = await lay({ "index.html": "<p>page" });
    await using server = await Served.start(["--port", "0", "--live", "--auth", "me:secret", site.root]);
    const headers = basic("me:secret");
    assertEquals(await (await fetch(server.url)).text(), "401 Unauthorized\n");
    versionIn(await (await fetch(server.url, { headers })).text());
    const events = await fetch(`${server.url}.live-reload/events`, { headers });
    server.signal("SIGINT");
    assertMatch(await inTime(events.text()), /^data:.*\n\n$/);
    const { code, stdout, stderr } = await server.finish();
    assertEquals([code, stderr], [0, ""]);
    const [live, auth] = stdout.split("\n");
    assertEquals(live, "Pages reload when a file changes.");
    assertEquals(auth, "It asks for the password. Without HTTPS (--cert and --key) it can be read on the wire.");
    assert(!/secret|bWU6c2VjcmV0/.test(server.firstLine + stdout), stdout);
  },
});

Deno.test({
  name: "main() stops although a FIFO has come into the folder that it watches",
  ignore: !isLinux,
  async fn() {
    await using site = await lay({ "index.html": "<p>page" });
    await using server = await Served.start(["--port", "0", "--live", site.root]);
    const events = await fetch(`${server.url}.live-reload/events`);
    await new Deno.Command("mkfifo", { args: [join(site.root, "fifo")] }).output();
    assertEquals((await fetch(`${server.url}fifo`)).status, 404);
    server.signal("SIGINT");
    await inTime(events.text());
    assertEquals((await inTime(server.finish())).code, 0);
  },
});

Deno.test({
  name: "main() goes on when there is no room for what it says",
  ignore: !isLinux,
  async fn() {
    await using site = await lay({ "index.html": "<p>page" });
    const name = new Uint8Array([...encoder.encode(`${site.root}/`), 0xe9]).toHex().replace(/../g, "\\x$&");
    const command =
      `"${Deno.execPath()}" run --quiet --allow-net --allow-read "${script}" --port 0 --live "${site.root}" ` +
      `2> /dev/full & server=$!; read signal; kill -INT $server; wait $server; echo "exit $?"`;
    const child = new Deno.Command("bash", { args: ["-c", command], stdin: "piped", stdout: "piped" }).spawn();
    const reader = child.stdout.pipeThrough(new TextDecoderStream()).getReader();
    const { value } = await inTime(reader.read());
    const [url] = /http:\S+/.exec(value!) ?? fail(value);
    const events = await fetch(`${url}.live-reload/events`);
    const told = events.body!.pipeThrough(new TextDecoderStream()).getReader();
    assertStringIncludes((await inTime(told.read())).value!, "data:");
    await new Deno.Command("bash", { args: ["-c", `touch $'${name}'`] }).output(); // a name that is not UTF-8
    assertStringIncludes((await inTime(told.read())).value!, "data:");
    const writer = child.stdin.getWriter();
    await writer.write(encoder.encode("now\n"));
    await writer.close();
    await told.cancel();
    assertStringIncludes(await inTime(readRest(reader, "")), "exit 0");
    await child.status;
    await new Deno.Command("bash", { args: ["-c", `rm $'${name}'`] }).output();
  },
});

Deno.test({
  name: "main() finishes a download before it stops, and lets nobody new in",
  ignore: isWindows,
  async fn() {
    await using site = await lay({ "big.bin": "" });
    const size = 64 << 20; // more than the sockets' buffers take
    await Deno.truncate(join(site.root, "big.bin"), size);
    await using server = await Served.start(["--port", "0", "--host", "127.0.0.1", site.root]);
    using connection = await Deno.connect({ hostname: "127.0.0.1", port: server.port });
    await connection.write(encoder.encode("GET /big.bin HTTP/1.1\r\nHost: h\r\n\r\n"));
    const chunk = new Uint8Array(1 << 20);
    let received = await connection.read(chunk) ?? 0;
    const head = decoder.decode(chunk.subarray(0, received)).indexOf("\r\n\r\n") + 4;
    server.signal("SIGTERM");
    await server.isClosed();
    for (let length; (length = await connection.read(chunk)) !== null;) received += length;
    assertEquals(received - head, size);
    const { code, stdout } = await server.finish();
    assertEquals(code, 0);
    assertStringIncludes(stdout, ` GET /big.bin 200 ${size} `);
  },
});

Deno.test({
  name: "main() stops at once at the second signal",
  ignore: isWindows,
  async fn() {
    await using site = await lay({ "big.bin": "" });
    await Deno.truncate(join(site.root, "big.bin"), 64 << 20);
    await using server = await Served.start(["--port", "0", "--host", "127.0.0.1", site.root]);
    using connection = await Deno.connect({ hostname: "127.0.0.1", port: server.port });
    await connection.write(encoder.encode("GET /big.bin HTTP/1.1\r\nHost: h\r\n\r\n"));
    await connection.read(new Uint8Array(1));
    server.signal("SIGINT");
    await server.isClosed();
    // What comes right after the first counts as the same signal, so it is sent until the server heeds it.
    let hasEnded = false;
    const finished = server.finish().finally(() => hasEnded = true);
    while (!hasEnded) {
      server.signal("SIGINT");
      // Not faster: under a hail of signals Deno's own exit can hang.
      await Promise.race([finished, new Promise((resolve) => setTimeout(resolve, 50))]);
    }
    assertEquals((await finished).code, 130);
  },
});

Deno.test({
  name: "main() stops although a client owes a body, or has asked for nothing",
  ignore: isWindows,
  async fn() {
    await using server = await Served.start(["--port", "0", "--host", "127.0.0.1"]);
    using _idle = await RawClient.connect(server.port);
    using client = await RawClient.connect(server.port);
    await client.send("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 1000\r\n\r\nthe beginning");
    assertEquals((await client.receive())?.status, 405);
    server.signal("SIGTERM");
    assertEquals((await server.finish()).code, 0);
  },
});

Deno.test({
  name: "main() accepts connections again after it had no file descriptor left",
  ignore: !isLinux,
  async fn() {
    await using site = await lay({ "a.txt": "a" });
    const run = `exec "${Deno.execPath()}" run --quiet ${PERMISSIONS.join(" ")} "${script}" -q -p 0 "${site.root}"`;
    const args = ["-c", `ulimit -n 64; ${run}`];
    const child = new Deno.Command("sh", { args, stdin: "null", stdout: "piped", stderr: "piped" }).spawn();
    const stdout = child.stdout.getReader();
    const stderr = child.stderr.getReader();
    const [url] = /http:\S+/.exec(decoder.decode((await stdout.read()).value)) ?? fail("it did not start");
    const clients: (RawClient | undefined)[] = [];
    for (let count = 0; count < 100; count++) {
      clients.push(await RawClient.connect(Number(new URL(url).port)).catch(() => undefined));
    }
    assertStringIncludes(
      decoder.decode((await stderr.read()).value),
      "http-server: it could not accept a connection: ",
    );
    for (const client of clients) client?.[Symbol.dispose]();
    let response;
    while ((response = await fetch(`${url}a.txt`).catch(() => undefined)) === undefined); // until it listens again
    assertEquals(await response.text(), "a");
    child.kill("SIGTERM");
    assertEquals((await child.status).code, 0);
    await Promise.all([stdout.cancel(), stderr.cancel()]);
  },
});

Deno.test({
  name: "main() goes on when a folder goes away while it is listed",
  ignore: isWindows,
  async fn() {
    await using site = await lay({ "race/p/c/a.txt": "a" });
    await using server = await Served.start(["--port", "0", "--host", "127.0.0.1", "-q", site.root]);
    const [p, q] = [join(site.root, "race/p"), join(site.root, "race/q")];
    let isOver = false;
    const clients = Array.from({ length: 4 }, async () => {
      while (!isOver) await (await fetch(`${server.url}race/p/c/`)).body?.cancel();
    });
    for (let count = 0; count < 2000; count++) {
      await Deno.rename(p, q);
      await Deno.rename(q, p);
    }
    isOver = true;
    await Promise.all(clients);
    assertEquals(await (await fetch(`${server.url}race/p/c/a.txt`)).text(), "a");
  },
});

Deno.test({
  name: "main() goes on when the reader of its log goes away",
  ignore: isWindows,
  async fn() {
    await using site = await lay({ "a.txt": "a" });
    const command = `"${Deno.execPath()}" run --quiet ${
      PERMISSIONS.join(" ")
    } "${script}" --port 0 "${site.root}" & echo $! >&2; wait $!`;
    const shell = new Deno.Command("sh", { args: ["-c", command], stdin: "null", stdout: "piped", stderr: "piped" })
      .spawn();
    const stdout = shell.stdout.getReader();
    const [url] = /http:\S+/.exec(decoder.decode((await stdout.read()).value)) ?? fail("it did not start");
    await stdout.cancel();
    for (let count = 0; count < 20; count++) assertEquals(await (await fetch(`${url}a.txt`)).text(), "a");
    const stderr = shell.stderr.getReader();
    Deno.kill(Number(decoder.decode((await stderr.read()).value)), "SIGTERM");
    assertEquals((await shell.status).code, 0);
    await stderr.cancel();
  },
});

Deno.test("main() prints its help and its version", async () => {
  for (const flag of ["-h", "--help"]) {
    assertEquals(await runMain([flag]), { code: 0, stdout: `${helpText()}\n`, stderr: "" });
  }
  for (const flag of ["-V", "--version"]) assertEquals((await runMain([flag])).stdout, `http-server ${VERSION}\n`);
  assertEquals((await run(["--help"], [])).stdout, `${helpText()}\n`);
});

Deno.test({
  name: "main() says in one sentence that its output can't be written",
  ignore: !isLinux,
  async fn() {
    const command = `"${Deno.execPath()}" run --quiet "${script}" --help > /dev/full`;
    const { code, stderr } = await new Deno.Command("sh", { args: ["-c", command], stdin: "null" }).output();
    assertEquals([code, decoder.decode(stderr)], [1, "http-server: No space left on device (os error 28).\n"]);
  },
});

Deno.test("README.md, deno.json and server.ts say the same", async () => {
  const read = (name: string) => Deno.readTextFile(join(here, name));
  assertStringIncludes(await read("README.md"), `\`\`\`text\n${helpText()}\n\`\`\``);
  const { version, imports } = JSON.parse(await read("deno.json"));
  assertEquals(version, VERSION);
  for (const [, specifier] of (await read("server.ts")).matchAll(/from "(jsr:@std\/[a-z]+@[^/"]+)/g)) {
    assert(Object.values(imports).includes(specifier), specifier);
  }
});

// HTTPS -------------------------------------------------------------------------------------------------------------

Deno.test("main() serves HTTPS and HTTP/2 with a certificate", async () => {
  const { cert, key } = await makeCertificate();
  await using site = await lay({
    "a.txt": "a",
    "sub/x": "x",
    "cert.pem": cert,
    "key.pem": key,
    "other.pem": (await makeCertificate()).key,
  });
  const files = ["--cert", join(site.root, "cert.pem"), "--key", join(site.root, "key.pem")];
  await using server = await Served.start(["--port", "0", ...files, site.root]);
  assertEquals(server.url, `https://localhost:${server.port}/`);

  using client = Deno.createHttpClient({ caCerts: [cert], http2: false });
  assertEquals(await (await fetch(`${server.url}a.txt`, { client })).text(), "a");

  const session = http2.connect(server.url, { ca: cert });
  const request = (path: string, fields: Record<string, string> = {}) =>
    new Promise<[number, string | undefined, string]>((resolve, reject) => {
      const stream = session.request({ ":path": path, ...fields });
      let head: Record<string, unknown> = {};
      let text = "";
      stream.on("response", (fields) => head = fields);
      stream.on("data", (chunk) => text += chunk);
      stream.on("end", () => resolve([Number(head[":status"]), head.location as string | undefined, text]));
      stream.on("error", reject);
      stream.end();
    });
  assertEquals(await request("/a.txt"), [200, undefined, "a"]);
  assertEquals(await request("/sub?q"), [301, "/sub/?q", ""]);
  assertEquals(await request("/a.txt", { range: "bytes=5-" }), [416, undefined, "416 Range Not Satisfiable\n"]);
  assertEquals(await request("/%2e%2e/%2e%2e/etc/passwd"), [404, undefined, "404 Not Found\n"]);
  await new Promise<void>((resolve) => session.close(resolve));

  await using asking = await Served.start(["--port", "0", "--auth", "me:secret", ...files, site.root]);
  assertEquals((await fetch(asking.url, { client, headers: basic("me:secret") })).status, 200);
  asking.signal("SIGKILL");
  assertMatch((await asking.finish()).stdout, /^It asks for the password\.\n/);

  const mismatch = await run([
    "--port",
    "0",
    "--cert",
    join(site.root, "cert.pem"),
    "--key",
    join(site.root, "other.pem"),
    site.root,
  ]);
  assertMatch(
    mismatch.stderr,
    /^http-server: it can't listen on 0\.0\.0\.0:0 with .*cert\.pem and .*other\.pem: .*\.\n$/,
  );
  assertEquals(mismatch.code, 1);
});

// Hostile requests --------------------------------------------------------------------------------------------------

/** A generator of random numbers from 0 to 1 that a seed decides (mulberry32), so that a failure can be had again. */
function seeded(seed: number): () => number {
  return () => {
    seed = seed + 0x6d2b79f5 | 0;
    let mixed = Math.imul(seed ^ seed >>> 15, seed | 1);
    mixed ^= mixed + Math.imul(mixed ^ mixed >>> 7, mixed | 61);
    return ((mixed ^ mixed >>> 14) >>> 0) / 2 ** 32;
  };
}

const FUZZ_NAMES = [
  ...[
    "index.html",
    "a.txt",
    "about",
    "sub",
    "sub/b.txt",
    "big.bin",
    "fifo",
    "unreadable",
    "noentry",
    "noentry/x",
    "empty",
  ],
  ...[
    "inner",
    "leak",
    "leakfolder",
    "leakfolder/secret.txt",
    "dangling",
    "loop",
    "up",
    "up/secret.txt",
    ".env",
    ".git/config",
  ],
  ...[
    ".well-known/x",
    "404.html",
    "secret.txt",
    "www",
    "odd%20%C3%A9%20%23%253F%26.txt",
    "nothing",
    "etc/passwd",
  ],
];
const FUZZ_JOINTS = [
  ...[
    "/",
    "/",
    "/",
    "/",
    "//",
    "/./",
    "/../",
    "/..",
    "%2f",
    "%2F..%2F",
    "/%2e%2e/",
    "/.%2E/",
    "/..%2f",
    "/%252e%252e/",
    "\\",
    "%5c",
  ],
  ...[
    "..%5c",
    "%00",
    "%",
    "%zz",
    "%ff",
    "%c0%ae",
    "?",
    "?q=",
    "#",
    ";",
    ":",
    "*",
    "~",
    "\u{e9}",
    "\u{202e}",
    " ",
    "\t",
    "'",
    '"<b>',
  ],
];
const FUZZ_STARTS = [
  "/",
  "/",
  "/",
  "/",
  "/",
  "//",
  "http://h/",
  "http://u@h/",
  "///h/",
  "h/",
  "",
  "*",
  "/..",
  "/../../",
];
const FUZZ_HOSTS = [
  "h",
  "h",
  "h",
  "h",
  "h",
  "h:1",
  "[::1]",
  "",
  "bad host",
  "a, b",
  "h/secret.txt",
  "u@h",
  "..",
  "h\\..",
  "h?",
  "h#",
];
const FUZZ_METHODS = ["HEAD", "OPTIONS", "POST", "DELETE", "get", "TRACE"];
const FUZZ_FIELDS: Record<string, string[]> = {
  "Range": [
    "bytes=0-9",
    "bytes=5-",
    "bytes=-5",
    "bytes=-0",
    "bytes=5-2",
    "bytes=0-1,3-4",
    "bytes=999999999-",
    "x=1-2",
    "bytes=--",
    `bytes=${"9".repeat(30)}-`,
  ],
  "If-Range": ["x", 'W/"x"', MODIFIED, "0", LATER],
  "If-None-Match": ["*", '"x"', 'W/"x", "y"', ",", ""],
  "If-Match": ["*", '"x"', ""],
  "If-Modified-Since": [MODIFIED, "x", "99999", "Sun, 99 Nov 9999 99:99:99 GMT"],
  "If-Unmodified-Since": [MODIFIED, LATER, "x"],
  "Accept-Encoding": ["gzip, deflate, br, zstd", "*", "identity;q=0", "gzip;q=x", "br;q=0,*;q=1", ","],
  "Access-Control-Request-Method": ["GET"],
  "Access-Control-Request-Headers": ["x\u{e9}", "a, b"],
  "Origin": ["null", "http://evil.example"],
  "Content-Length": ["0"],
  "Upgrade": ["websocket"],
  "Expect": ["x"],
};

function randomRequest(random: () => number): { method: string; target: string; text: string } {
  const pick = (items: string[]) => items[Math.floor(random() * items.length)]!;
  let target = random() < 0.1 ? pick(FUZZ_STARTS) : "/";
  for (let count = Math.floor(random() ** 3 * 4); count >= 0; count--) {
    target += pick(FUZZ_NAMES) + (random() < 0.25 ? pick(FUZZ_JOINTS) : "");
  }
  if (random() < 0.02) {
    target += pick(["n".repeat(300), "a/".repeat(2000), "../".repeat(2000), "%2e%2e%2f".repeat(1000), "%".repeat(500)]);
  }
  const method = random() < 0.2 ? pick(FUZZ_METHODS) : "GET";
  let text = `${method} ${target} HTTP/1.1\r\nHost: ${random() < 0.1 ? pick(FUZZ_HOSTS) : "h"}\r\n`;
  for (const [name, values] of Object.entries(FUZZ_FIELDS)) if (random() < 0.1) text += `${name}: ${pick(values)}\r\n`;
  return { method, target, text: `${text}\r\n` };
}

Deno.test({
  name: "handler() survives 20,000 hostile requests without a 5xx, a leak, a hang or an open file",
  ignore: !isLinux,
  async fn() {
    const SECRET = "THE SECRET";
    await using outside = await lay({
      "secret.txt": SECRET,
      "www/index.html": "index",
      "www/a.txt": "0123456789",
      "www/about.html": "about",
      "www/sub/b.txt": "b".repeat(5000),
      "www/sub/404.html": "nothing in sub",
      "www/big.bin": new Uint8Array(300_000),
      "www/empty": "",
      "www/unreadable": SECRET,
      "www/noentry/x": SECRET,
      "www/.env": SECRET,
      "www/.git/config": SECRET,
      "www/.well-known/x": "x",
      "www/odd é #%3F&.txt": "odd",
      "www/inner": { link: "a.txt" },
      "www/leak": { link: "../secret.txt" },
      "www/leakfolder": { link: ".." },
      "www/up": { link: "../../" },
      "www/dangling": { link: "nothing-at-all" },
      "www/loop": { link: "loop" },
    });
    const root = join(outside.root, "www");
    assert((await new Deno.Command("mkfifo", { args: [join(root, "fifo")] }).output()).success);
    for (const name of ["unreadable", "noentry"]) await chmod(join(root, name), 0);

    const statuses = new Map<number, number>();
    await withoutRights(() =>
      whenSettled(async () => { // with rights that some files forbid, and with a warm memory
        for (const [index, options] of [{}, { spa: true, cors: true }, { listing: false }, { maxAge: 9 }].entries()) {
          const server = start({ root, ...options });
          const random = seeded(index + 1);
          const clients = Array.from({ length: 4 }, async () => {
            let client = await RawClient.connect(server.port);
            for (let count = 0; count < 1250; count++) {
              const { method, target, text } = randomRequest(random);
              await client.send(text);
              if (random() < 0.01) { // a client that goes away
                client[Symbol.dispose]();
                client = await RawClient.connect(server.port);
                continue;
              }
              const answer = await client.receive(method) ?? fail(`no answer to ${text}`);
              statuses.set(answer.status, (statuses.get(answer.status) ?? 0) + 1);
              assert(answer.status < 500, `${answer.status} to ${text}`);
              assert(!answer.text.includes(SECRET) && !answer.text.includes("root:x:"), `the secret, to ${text}`);
              assert(!answer.text.includes(outside.root), `a path, to ${text}`);
              const location = answer.headers.get("location");
              assert(location === null || /^\/(?!\/)[!-~]*$/.test(location), `${location}, to ${target}`);
              if (answer.status !== 400 && answer.headers.get("connection") !== "close") continue;
              client[Symbol.dispose](); // what doesn't parse ends the connection
              client = await RawClient.connect(server.port);
            }
            client[Symbol.dispose]();
          });
          await Promise.all(clients);
          await server.server.shutdown();
        }
      })
    );
    // The requests are of no use if they don't get everywhere.
    for (const status of [200, 204, 206, 301, 304, 400, 403, 404, 405, 412, 416]) {
      assert((statuses.get(status) ?? 0) > 20, `${status}: ${statuses.get(status)}`);
    }
    assertEquals(openFiles(outside.root), 0);
  },
});
