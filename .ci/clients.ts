/**
 * Tests the server with the programs that people use as clients: `deno task test-clients`.
 *
 * The tests need Chromium, VLC, FFmpeg, curl, Wget, aria2 and FUSE, which `.ci/run` installs if it can. A test is ignored
 * if one of its programs is missing, and its name then contains the missing program. Each test starts the server in its
 * own process, with only network and read access.
 *
 * @module
 */

/// <reference lib="dom" />
// deno-lint-ignore-file no-import-prefix -- only tests need a browser, so deno.json does not list playwright-core
import { assert, assertEquals } from "@std/assert";
import { join } from "@std/path";
import { chromium, type Page } from "npm:playwright-core@1.65";
import { Served, Site } from "./fixtures.ts";

const TEST_LIMIT = 180_000; // ms for a whole test
const TIME_LIMIT = 60_000; // ms for a program to exit, or for anything else that a test waits for
const MEBIBYTE = 1 << 20;

// Programs ----------------------------------------------------------------------------------------------------------

/** Returns the path of the first installed program. */
function find(...names: string[]): string | undefined {
  const folders = Deno.build.os === "windows" ? [] : Deno.env.get("PATH")?.split(":") ?? [];
  return folders.flatMap((folder) => names.map((name) => join(folder, name))).find(isFile);
}

function isFile(path: string): boolean {
  try {
    return Deno.statSync(path).isFile;
  } catch {
    return false;
  }
}

type Program = "Chromium" | "VLC" | "FFmpeg" | "ffprobe" | "curl" | "Wget" | "aria2" | "FUSE";
const programs: Partial<Record<Program, string>> = {
  Chromium: find("chromium", "chromium-browser", "google-chrome"),
  VLC: find("cvlc"),
  FFmpeg: find("ffmpeg"),
  ffprobe: find("ffprobe"),
  curl: find("curl"),
  Wget: find("wget"),
  aria2: find("aria2c"),
  FUSE: ["/usr/bin/python3"].find(isFile), // Debian's Python, because only that one has its FUSE package
};

/** Defines a test, which is ignored if one of its programs is missing. */
function test(name: string, needed: Program[], fn: () => Promise<void>): void {
  const missing = needed.filter((program) => programs[program] === undefined);
  const note = missing.length === 0 ? "" : ` (missing here: ${missing.join(", ")})`;
  Deno.test({ name: name + note, ignore: missing.length > 0, fn: () => within("the test", fn(), TEST_LIMIT) });
}

/** Starts a program without the user's settings: no proxy, no configuration files, messages in English. */
function spawn(program: Program, args: string[]): Deno.ChildProcess {
  // VLC refuses to run as root. 65534 is the user `nobody`.
  const user = program === "VLC" && Deno.uid() === 0 ? { uid: 65534, gid: 65534 } : {};
  return new Deno.Command(programs[program]!, {
    args,
    ...user,
    cwd: "/",
    clearEnv: true,
    env: { PATH: Deno.env.get("PATH")!, HOME: "/nonexistent" },
    stdin: "null",
    stdout: "piped",
    stderr: "piped",
  }).spawn();
}

function kill(child: Deno.ChildProcess, signal: Deno.Signal): void {
  try {
    child.kill(signal);
  } catch {
    // The program has just exited by itself.
  }
}

/** Runs a program to its end and returns what it printed. Throws if it fails or takes too long. */
async function run(program: Program, ...args: string[]): Promise<string> {
  const child = spawn(program, args);
  let isLate = false;
  const timer = setTimeout(() => {
    isLate = true;
    kill(child, "SIGKILL");
  }, TIME_LIMIT);
  const { code, stdout, stderr } = await child.output();
  clearTimeout(timer);
  const printed = new TextDecoder().decode(stdout) + new TextDecoder().decode(stderr);
  if (isLate) throw new Error(`${program} did not exit within ${TIME_LIMIT} ms:\n${printed}`);
  if (code !== 0) throw new Error(`${program} failed with exit code ${code}:\n${printed}`);
  return printed;
}

/** Starts a download and stops the program once a part of the file is on the disk. */
async function interrupt(program: Program, file: string, ...args: string[]): Promise<void> {
  const child = spawn(program, args);
  let hasEnded = false;
  const output = child.output().finally(() => hasEnded = true);
  const hasPart = async () => {
    const info = await Deno.stat(file).catch(() => undefined);
    return hasEnded || (info?.blocks ?? 0) * 512 >= MEBIBYTE; // not the size, because aria2's files have gaps
  };
  try {
    await until(`${program} has downloaded 1 MiB`, hasPart);
    assert(!hasEnded, `${program} exited before it could be interrupted`);
  } finally {
    kill(child, "SIGTERM");
    await within(`${program} exits`, output);
  }
}

// Waiting -----------------------------------------------------------------------------------------------------------

/** Returns a promise's result. Throws if it takes too long. */
async function within<T>(what: string, promise: Promise<T>, limit = TIME_LIMIT): Promise<T> {
  const { promise: timeout, reject } = Promise.withResolvers<never>();
  const timer = setTimeout(() => reject(new Error(`timed out after ${limit} ms: ${what}`)), limit);
  try {
    return await Promise.race([promise, timeout]);
  } finally {
    clearTimeout(timer);
  }
}

/** Polls a condition until it is true. Throws if that takes too long. */
async function until(what: string, isTrue: () => Promise<boolean>): Promise<void> {
  const end = performance.now() + TIME_LIMIT;
  while (!await isTrue()) {
    if (performance.now() > end) throw new Error(`timed out after ${TIME_LIMIT} ms: ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
}

// Server and files --------------------------------------------------------------------------------------------------

/** Starts a server for a folder. */
function serve(root: string): Promise<Served> {
  return within("the server starts", Served.start(["--port", "0", root]));
}

/** Waits until a file has both validators, because the server sends no `Last-Modified` for a file that just changed. */
async function settle(url: string): Promise<Headers> {
  let headers = new Headers();
  await until(`${url} has an ETag and a Last-Modified`, async () => {
    ({ headers } = await within(`HEAD ${url}`, fetch(url, { method: "HEAD" })));
    return headers.has("etag") && headers.has("last-modified");
  });
  return headers;
}

/** Stops a server and returns the status of each GET request for a path, from the server's log. */
async function loggedStatuses(server: Served, path: string): Promise<number[]> {
  assertEquals(await within("the server stops", server.stop()), 0);
  const requests = [...server.log.matchAll(/"GET (\S+) HTTP\/\S+ (\d{3}) /g)];
  return requests.filter(([, target]) => target === path).map(([, , status]) => Number(status));
}

/** Returns the numbers 0, 1, 2 and so on, each in four bytes, so that bytes from a wrong offset are noticed. */
function makeBytes(size: number): Uint8Array {
  return new Uint8Array(Uint32Array.from({ length: size / 4 }, (_, index) => index).buffer);
}

/** Compares bytes. `assertEquals` is too slow for 20 MB. */
function assertSameBytes(actual: Uint8Array, expected: Uint8Array): void {
  assertEquals(actual.length, expected.length);
  const offset = actual.findIndex((byte, index) => byte !== expected[index]);
  assert(offset < 0, `the bytes differ from offset ${offset}`);
}

/** Sets a file's modification time to an hour ago. Clients do not rely on a `Last-Modified` less than a minute old. */
async function age(file: string): Promise<void> {
  const time = new Date(Date.now() - 3_600_000);
  await Deno.utime(file, time, time);
}

const FILM_DURATION = 3; // seconds; VLC plays in real time

/** Makes a folder with `film.mp4`, whose index (`moov`) is at its end, and a page that shows it. */
async function makeFilm(): Promise<Site> {
  const site = await Site.lay({
    "video.html": `<!doctype html><title>t</title><video src="film.mp4" muted preload="auto"></video>`,
  });
  const film = site.file("film.mp4");
  const source = `testsrc2=size=640x360:rate=25:duration=${FILM_DURATION}`;
  // Noise is hard to compress, so the file becomes big.
  const codec = ["-vf", "noise=alls=60:allf=t", "-c:v", "libx264", "-preset", "ultrafast", "-pix_fmt", "yuv420p"];
  await run("FFmpeg", "-v", "error", "-f", "lavfi", "-i", source, ...codec, "-b:v", "12M", film);
  await age(film);
  const bytes = await Deno.readFile(film);
  assert(bytes.length > 2_000_000);
  const [data, index] = ["mdat", "moov"].map((name) => new TextDecoder("latin1").decode(bytes).indexOf(name));
  assert(data! > 0 && index! > data!);
  return site;
}

/** Replaces the film with a longer one that repeats it. */
async function lengthenFilm(site: Site, copies: number): Promise<void> {
  const [film, long] = [site.file("film.mp4"), site.file("long.mp4")];
  await run("FFmpeg", "-v", "error", "-stream_loop", `${copies - 1}`, "-i", film, "-c", "copy", long);
  await Deno.rename(long, film);
  await age(film);
}

// Films -------------------------------------------------------------------------------------------------------------

test("VLC plays a film whose index is at its end", ["VLC", "FFmpeg"], async () => {
  await using site = await makeFilm();
  await using server = await serve(site.root);
  const url = `${server.url}film.mp4`;
  await settle(url);
  const outputs = ["-I", "dummy", "--vout", "dummy", "--aout", "dummy"];
  const printed = await run("VLC", "-vv", "--play-and-exit", ...outputs, url);
  // VLC exits with 0 even if it could not read the index.
  const failures = printed.split("\n").filter((line) => /unable to open|cannot seek|no moov|^HTTP\S* [45]/i.test(line));
  assertEquals(failures, []);
  for (const message of ['using demux module "mp4"', "using video decoder module", "end of playlist, exiting"]) {
    assert(printed.includes(message), `VLC did not print: ${message}`);
  }
  const statuses = await loggedStatuses(server, "/film.mp4");
  assert(statuses.length >= 2, "VLC did not seek");
  assertEquals(new Set(statuses), new Set([206]));
});

test("FFmpeg reads a film by its URL", ["FFmpeg", "ffprobe"], async () => {
  await using site = await makeFilm();
  await using server = await serve(site.root);
  const url = `${server.url}film.mp4`;
  await settle(url);
  const format = ["-show_entries", "format=duration", "-of", "csv=p=0"];
  assertEquals((await run("ffprobe", "-v", "error", ...format, url)).trim(), `${FILM_DURATION}.000000`);
  // FFmpeg decodes all frames and prints only errors.
  assertEquals(await run("FFmpeg", "-v", "error", "-i", url, "-f", "null", "-"), "");
  const statuses = await loggedStatuses(server, "/film.mp4");
  assert(statuses.length >= 4, "FFmpeg did not seek");
  assertEquals(new Set(statuses), new Set([206]));
});

// Chromium ----------------------------------------------------------------------------------------------------------

/** Opens a tab in a new browser, with the browser's own network traffic turned off. */
async function openTab() {
  const features = ["quic", "background-networking", "component-update", "sync"].map((name) => `--disable-${name}`);
  const browser = await chromium.launch({
    executablePath: programs.Chromium,
    args: ["--no-sandbox", "--disable-gpu", "--no-first-run", ...features],
    timeout: TIME_LIMIT,
  });
  return { tab: await browser.newPage(), [Symbol.asyncDispose]: () => browser.close() };
}

/** Limits a tab's network speed. Returns a function that returns how many bytes of response bodies have arrived. */
async function throttle(tab: Page, bytesPerSecond: number): Promise<() => number> {
  const session = await tab.context().newCDPSession(tab);
  let received = 0;
  session.on("Network.dataReceived", ({ dataLength }) => received += dataLength);
  await session.send("Network.enable");
  await session.send("Network.emulateNetworkConditions", {
    offline: false,
    latency: 10,
    downloadThroughput: bytesPerSecond,
    uploadThroughput: bytesPerSecond,
  });
  return () => received;
}

test("Chromium seeks in a film without loading all of it", ["Chromium", "FFmpeg"], async () => {
  await using site = await makeFilm();
  const copies = 4;
  await lengthenFilm(site, copies);
  const { size } = await Deno.stat(site.file("film.mp4"));
  assert(size > 20_000_000);
  await using server = await serve(site.root);
  await settle(`${server.url}film.mp4`);
  await using browser = await openTab();
  const { tab } = browser;
  const received = await throttle(tab, 2 * MEBIBYTE);
  await tab.goto(`${server.url}video.html`);
  const seek = tab.evaluate(async () => {
    const video = document.querySelector("video")!;
    const fired = (type: string) =>
      new Promise((resolve, reject) => {
        video.addEventListener(type, resolve, { once: true });
        video.addEventListener("error", () => reject(new Error(video.error?.message)), { once: true });
      });
    if (video.error !== null) throw new Error(video.error.message);
    if (video.readyState < video.HAVE_METADATA) await fired("loadedmetadata");
    const middle = video.duration / 2;
    const seeked = fired("seeked");
    video.currentTime = middle;
    await seeked;
    return [video.duration, video.currentTime - middle];
  });
  assertEquals(await within("the video seeks", seek), [FILM_DURATION * copies, 0]);
  // Without ranges Chromium has to load the first half of the film to show its middle.
  assert(received() < size / 2, `Chromium loaded ${received()} of ${size} bytes`);
  const statuses = await loggedStatuses(server, "/film.mp4");
  const ranges = statuses.filter((status) => status !== 304); // Chromium revalidates the parts in its cache
  assert(ranges.length >= 3, "Chromium did not request the start, the index and the middle");
  assertEquals(new Set(ranges), new Set([206]));
});

test("Chromium reads two ranges of a file one after the other", ["Chromium"], async () => {
  const bytes = makeBytes(2 * MEBIBYTE);
  await using site = await Site.lay({ "index.html": "<!doctype html><title>t</title>", "a.bin": bytes });
  await age(site.file("a.bin"));
  await using server = await serve(site.root);
  await settle(`${server.url}a.bin`);
  await using browser = await openTab();
  await browser.tab.goto(server.url);
  const read = browser.tab.evaluate(async () => {
    const parts = [];
    for (const range of ["bytes=0-99", "bytes=100-199"]) {
      const response = await fetch("a.bin", { headers: { range } });
      const body = new Uint8Array(await response.arrayBuffer());
      parts.push({ status: response.status, length: body.length, start: body.subarray(0, 100).join(" ") });
    }
    return parts;
  });
  assertEquals(await within("the page reads both ranges", read), [
    { status: 206, length: 100, start: bytes.subarray(0, 100).join(" ") },
    { status: 206, length: 100, start: bytes.subarray(100, 200).join(" ") },
  ]);
});

test("Chromium shows a page in the charset that the page declares", ["Chromium"], async () => {
  const html = "<!doctype html><meta charset=iso-8859-1><title>t</title><h1>\xe9</h1>";
  const latin1 = Uint8Array.from(html, (character) => character.charCodeAt(0));
  await using site = await Site.lay({ "index.html": latin1 });
  await using server = await serve(site.root);
  await using browser = await openTab();
  await browser.tab.goto(server.url);
  assertEquals(await browser.tab.locator("h1").textContent({ timeout: TIME_LIMIT }), "é");
});

// Downloads ---------------------------------------------------------------------------------------------------------

/** Serves a file of 20 MiB, and makes a folder for downloads. */
async function serveDownload() {
  await using stack = new AsyncDisposableStack();
  const bytes = makeBytes(20 * MEBIBYTE);
  const site = stack.use(await Site.lay({ "a.bin": bytes }));
  await age(site.file("a.bin"));
  const downloads = stack.use(await Site.lay({}));
  const server = stack.use(await serve(site.root));
  const url = `${server.url}a.bin`;
  const headers = await settle(url);
  const owner = stack.move();
  return { bytes, downloads, server, url, headers, [Symbol.asyncDispose]: () => owner.disposeAsync() };
}

test("curl resumes a download, with and without If-Range", ["curl"], async () => {
  await using download = await serveDownload();
  const { bytes, downloads, server, url, headers } = download;
  const partial = downloads.file("partial.bin");
  await interrupt("curl", partial, "--silent", "--limit-rate", "2M", "--output", partial, url);
  // curl itself sends only `Range`. Browsers also send `If-Range`.
  for (const validator of [undefined, headers.get("etag")!, headers.get("last-modified")!]) {
    const file = downloads.file("a.bin");
    await Deno.copyFile(partial, file);
    const ifRange = validator === undefined ? [] : ["--header", `If-Range: ${validator}`];
    await run("curl", "--silent", "--show-error", "--fail", "--continue-at", "-", ...ifRange, "--output", file, url);
    assertSameBytes(await Deno.readFile(file), bytes);
  }
  assertEquals(await loggedStatuses(server, "/a.bin"), [200, 206, 206, 206]);
});

test("Wget resumes a download", ["Wget"], async () => {
  await using download = await serveDownload();
  const { bytes, downloads, server, url } = download;
  const file = downloads.file("a.bin");
  await interrupt("Wget", file, "--quiet", "--limit-rate=2m", "-O", file, url);
  await run("Wget", "--no-verbose", "--tries=1", "--continue", "-O", file, url);
  assertSameBytes(await Deno.readFile(file), bytes);
  assertEquals(await loggedStatuses(server, "/a.bin"), [200, 206]);
});

const ARIA2_OPTIONS = ["-x4", "-s4", "-k1M", "--file-allocation=none", "--disk-cache=0", "--allow-overwrite=false"];

test("aria2 downloads a file over four connections", ["aria2"], async () => {
  await using download = await serveDownload();
  const { bytes, downloads, server, url } = download;
  await run("aria2", ...ARIA2_OPTIONS, "--dir", downloads.root, url);
  assertSameBytes(await Deno.readFile(downloads.file("a.bin")), bytes);
  const statuses = await loggedStatuses(server, "/a.bin");
  assert(statuses.filter((status) => status === 206).length >= 3, `${statuses}`);
  assert(statuses.every((status) => status < 300), `${statuses}`);
});

test("aria2 resumes a download over four connections", ["aria2"], async () => {
  await using download = await serveDownload();
  const { bytes, downloads, server, url } = download;
  const file = downloads.file("a.bin");
  const args = [...ARIA2_OPTIONS, "--dir", downloads.root, url];
  await interrupt("aria2", file, "--max-download-limit=4M", ...args);
  assert(isFile(`${file}.aria2`), "aria2 keeps the state of an unfinished download in this file");
  await run("aria2", "--continue", ...args);
  assertSameBytes(await Deno.readFile(file), bytes);
  const statuses = await loggedStatuses(server, "/a.bin");
  // The first run requests three ranges; the others show that the second run did not start from zero.
  assert(statuses.filter((status) => status === 206).length > 3, `${statuses}`);
  assert(statuses.every((status) => status < 300), `${statuses}`);
});

// FUSE --------------------------------------------------------------------------------------------------------------

/**
 * A Python program that mounts a file system with two files at the folder given as its argument, and unmounts it when
 * standard input ends. Every lookup and every `stat` gets a new inode number, as on some network file systems.
 */
const FILE_SYSTEM = `
import itertools, stat, sys
import pyfuse3, trio

TIME = 1_600_000_000 * 10**9
FILES = {
    b"small.bin": b"".join(i.to_bytes(4, "little") for i in range(${MEBIBYTE / 16})),
    b"big.bin": b"".join(i.to_bytes(4, "little") for i in range(${MEBIBYTE / 2})),
}

class FileSystem(pyfuse3.Operations):
    inodes = itertools.count(2)
    names = {}

    def attributes(self, name, inode):
        entry = pyfuse3.EntryAttributes()
        entry.st_ino = inode
        entry.st_mode = stat.S_IFDIR | 0o755 if name is None else stat.S_IFREG | 0o644
        entry.st_size = 0 if name is None else len(FILES[name])
        entry.st_atime_ns = entry.st_mtime_ns = entry.st_ctime_ns = TIME
        entry.attr_timeout = entry.entry_timeout = 0
        return entry

    async def getattr(self, inode, ctx=None):
        return self.attributes(self.names.get(inode), next(self.inodes))

    async def lookup(self, parent, name, ctx=None):
        if name not in FILES:
            raise pyfuse3.FUSEError(2)  # ENOENT
        inode = next(self.inodes)
        self.names[inode] = name
        return self.attributes(name, inode)

    async def opendir(self, inode, ctx):
        return inode

    async def readdir(self, handle, start, token):
        for index, name in enumerate(FILES):
            inode = next(self.inodes)
            self.names[inode] = name
            if index >= start and not pyfuse3.readdir_reply(token, name, self.attributes(name, inode), index + 1):
                return

    async def open(self, inode, flags, ctx):
        return pyfuse3.FileInfo(fh=inode)

    async def read(self, inode, offset, size):
        return FILES[self.names[inode]][offset:offset + size]

async def main():
    async with trio.open_nursery() as nursery:
        nursery.start_soon(pyfuse3.main)
        print("mounted", flush=True)
        await trio.to_thread.run_sync(sys.stdin.read)
        pyfuse3.terminate()

pyfuse3.init(FileSystem(), sys.argv[1], {"fsname=http-server-test", "default_permissions"})
try:
    trio.run(main)
finally:
    pyfuse3.close()
`;

if (!await canMount()) programs.FUSE = undefined;

/** Mounts and unmounts the file system to check that it works here. It needs Python's package, a device and a privilege. */
async function canMount(): Promise<boolean> {
  if (Deno.build.os !== "linux" || programs.FUSE === undefined) return false;
  const folder = await Deno.makeTempDir({ prefix: "http-server-test-" });
  try {
    await run("FUSE", "-c", FILE_SYSTEM, folder);
    return true;
  } catch {
    return false;
  } finally {
    await Deno.remove(folder);
  }
}

/** Mounts the file system at a new folder. */
async function mount() {
  const root = await Deno.makeTempDir({ prefix: "http-server-test-" });
  const args = ["-c", FILE_SYSTEM, root];
  const child = new Deno.Command(programs.FUSE!, { args, stdin: "piped", stdout: "piped" }).spawn();
  const output = child.stdout.getReader();
  const unmount = async () => {
    await child.stdin.close();
    await output.cancel();
    await within("the file system is unmounted", child.status);
    await Deno.remove(root);
  };
  const { done } = await within("the file system is mounted", output.read());
  if (done) await unmount();
  assert(!done, "the file system was not mounted");
  return { root, [Symbol.asyncDispose]: unmount };
}

test("files of a file system without stable inode numbers are served", ["FUSE"], async () => {
  await using disk = await mount();
  await using server = await serve(disk.root);
  for (const [name, size] of [["small.bin", MEBIBYTE / 4], ["big.bin", 2 * MEBIBYTE]] as const) {
    const inode = async () => (await Deno.stat(join(disk.root, name))).ino;
    assert(await inode() !== await inode());
    const tags = [];
    for (let i = 0; i < 2; i++) {
      const response = await within(`GET ${name}`, fetch(server.url + name));
      const body = await within(`the body of ${name}`, response.bytes());
      assertEquals(response.status, 200, name);
      assertSameBytes(body, makeBytes(size));
      tags.push(response.headers.get("etag"));
    }
    assert(tags[0] !== null && tags[0] === tags[1], `${name}: ${tags}`);
  }
});
