/**
 * Sends random hostile requests to http-server over raw sockets and HTTP/2. It stops at the first wrong response or when
 * the time is up. `server_test.ts` runs it with a fixed seed.
 *
 *     deno task fuzz [--seconds N] [--seed N]
 *
 * It needs Linux or Windows to see which files are open.
 *
 * @module
 */

import { assert } from "@std/assert";
import { join } from "@std/path";
import http2 from "node:http2";
import { parseArgs } from "node:util";
import { createHandler, makeCertificate, type Options } from "../server.ts";
import { type Answer, chmod, openFiles, RawClient, Site, withoutRights } from "./fixtures.ts";

const SECRET = "THE SECRET";
const isWindows = Deno.build.os === "windows"; // which has no FIFOs and no modes

/** Returns a seeded generator of random numbers from 0 to 1 (mulberry32), so that a failure can be reproduced. */
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
  "http://localhost/",
  "http://u@h/",
  "///h/",
  "h/",
  "",
  "*",
  "/..",
  "/../../",
];

const FUZZ_HOSTS = [
  "localhost",
  "localhost",
  "localhost",
  "localhost",
  "localhost:1",
  "h",
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

const FUZZ_HEADERS: Record<string, string[]> = {
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
  "If-Range": ["x", 'W/"x"', "Sun, 06 Nov 1994 08:49:37 GMT", "0", "Sun, 06 Nov 1994 08:49:38 GMT"],
  "If-None-Match": ["*", '"x"', 'W/"x", "y"', ",", ""],
  "If-Match": ["*", '"x"', ""],
  "If-Modified-Since": ["Sun, 06 Nov 1994 08:49:37 GMT", "x", "99999", "Sun, 99 Nov 9999 99:99:99 GMT"],
  "If-Unmodified-Since": ["Sun, 06 Nov 1994 08:49:37 GMT", "Sun, 06 Nov 1994 08:49:38 GMT", "x"],
  "Accept": ["text/html", "application/json", "text/html;q=x, */*;q=", ",;=", "a/b;;x", "*"],
  "Accept-Encoding": ["gzip, deflate, br, zstd", "*", "identity;q=0", "gzip;q=x", "br;q=0,*;q=1", ","],
  "Access-Control-Request-Method": ["GET"],
  "Access-Control-Request-Headers": ["x\u{e9}", "a, b"],
  "Origin": ["null", "http://evil.example"],
  "Content-Length": ["0"],
  "Upgrade": ["websocket"],
  "Expect": ["x"],
};

/** A request; `text` is its HTTP/1.1 form. */
type Hostile = { method: string; target: string; headers: [string, string][]; text: string };

function randomRequest(random: () => number): Hostile {
  const pick = (items: string[]) => items[Math.floor(random() * items.length)]!;
  let target = random() < 0.1 ? pick(FUZZ_STARTS) : "/";
  for (let count = Math.floor(random() ** 3 * 4); count >= 0; count--) {
    target += pick(FUZZ_NAMES) + (random() < 0.25 ? pick(FUZZ_JOINTS) : "");
  }
  if (random() < 0.02) {
    target += pick(["n".repeat(300), "a/".repeat(2000), "../".repeat(2000), "%2e%2e%2f".repeat(1000), "%".repeat(500)]);
  }
  const method = random() < 0.2 ? pick(FUZZ_METHODS) : "GET";
  const headers: [string, string][] = [["Host", random() < 0.1 ? pick(FUZZ_HOSTS) : "localhost"]];
  for (const [name, values] of Object.entries(FUZZ_HEADERS)) if (random() < 0.1) headers.push([name, pick(values)]);
  const lines = [`${method} ${target} HTTP/1.1`, ...headers.map((header) => header.join(": "))];
  return { method, target, headers, text: `${lines.join("\r\n")}\r\n\r\n` };
}

/** Returns an HTTP/2 client that reconnects after a malformed request has closed its connection. */
function connectHttp2(port: number, ca: string) {
  const connect = () => http2.connect(`https://localhost:${port}`, { ca }).on("error", () => {});
  let session = connect();
  const send = ({ method, target, headers: sent }: Hostile) =>
    new Promise<Answer | undefined>((resolve) => {
      const allowed = sent.filter(([name]) => !/^(?:host|upgrade|content-length)$/i.test(name)).map((
        [name, value],
      ) => [name.toLowerCase(), value]);
      if (session.closed || session.destroyed) session = connect();
      const stream = session.request({ ...Object.fromEntries(allowed), ":method": method, ":path": target });
      const headers = new Headers();
      let [status, text] = [0, ""];
      stream.on("response", (head) => {
        status = Number(head[":status"]);
        for (const [name, value] of Object.entries(head)) if (!name.startsWith(":")) headers.set(name, String(value));
      });
      stream.on("data", (chunk) => text += chunk);
      stream.on("end", () => resolve({ status, headers, text }));
      stream.on("error", () => resolve(undefined));
      stream.on("close", () => resolve(undefined));
      stream.end();
    });
  return { send, close: () => session.destroy() };
}

/** Throws if a response is a 5xx, contains a secret or a path on disk, or redirects to another host. */
function check(response: Answer, { target, text }: Hostile, folder: string): void {
  assert(response.status < 500, `status ${response.status} for ${text}`);
  assert(!response.text.includes(SECRET) && !response.text.includes("root:x:"), `a secret is served for ${text}`);
  assert(!response.text.includes(folder), `a path on disk is served for ${text}`);
  const location = response.headers.get("location");
  assert(location === null || /^\/(?!\/)[!-~]*$/.test(location), `Location is ${location} for ${target}`);
}

/** Returns the number of responses per status. Throws at the first wrong response, or if a file stays open. */
export async function fuzz(
  { requests = Infinity, seconds = Infinity, seed }: { requests?: number; seconds?: number; seed: number },
): Promise<Map<number, number>> {
  await using outside = await Site.lay({
    "secret.txt": SECRET,
    "www/index.html": "index",
    "www/a.txt": "0123456789",
    "www/about.html": "about",
    "www/sub/b.txt": "b".repeat(5000),
    "www/sub/404.html": "nothing in sub",
    "www/big.bin": new Uint8Array(70_000),
    "www/empty": "",
    ...isWindows ? {} : { "www/unreadable": SECRET, "www/noentry/x": SECRET },
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
  if (!isWindows) {
    assert((await new Deno.Command("mkfifo", { args: [join(root, "fifo")] }).output()).success);
    for (const name of ["unreadable", "noentry"]) await chmod(join(root, name), 0);
  }

  const statuses = new Map<number, number>();
  const end = Date.now() + seconds * 1000;
  const { cert, key } = await makeCertificate();
  const variants: Partial<Options>[] = [{}, { spa: true, cors: true }, { listing: false }, { maxAge: 9, base: "/sub" }];
  let next = 0;
  while (next < requests && Date.now() < end) {
    // Run each round unprivileged, so that some files are unreadable, and long enough for a warm cache.
    await withoutRights(() => fuzzRound(variants[next / 1500 % 4]!, seeded(seed + next / 1500)));
    next += 1500;
  }
  assert(openFiles(outside.root) === 0, "a file remains open");
  return statuses;

  /** Sends 1,500 requests from four clients to a new server. */
  async function fuzzRound(options: Partial<Options>, random: () => number): Promise<void> {
    const handler = createHandler({ root, ...options });
    const address = { port: 0, hostname: "127.0.0.1", onListen() {} };
    const plain = Deno.serve(address, handler);
    const secure = Deno.serve({ ...address, cert, key }, handler);
    const other = connectHttp2(secure.addr.port, cert);
    const count = (status: number) => statuses.set(status, (statuses.get(status) ?? 0) + 1);
    await Promise.all(Array.from({ length: 4 }, async () => {
      let client = await RawClient.connect(plain.addr.port);
      const reconnect = async () => {
        client[Symbol.dispose]();
        client = await RawClient.connect(plain.addr.port);
      };
      for (let left = 375; left > 0 && Date.now() < end; left--) {
        const request = randomRequest(random);
        if (random() < 0.1) {
          const response = await other.send(request);
          if (response === undefined) continue; // rejected before it reached the handler
          check(response, request, outside.root);
          count(response.status);
          continue;
        }
        await client.send(request.text);
        if (random() < 0.01) { // the client disconnects
          await reconnect();
          continue;
        }
        const response = await client.receive(request.method);
        if (response === undefined && isWindows) { // it can drop a 400 that Deno sent before it closed the connection
          await reconnect();
          continue;
        }
        assert(response !== undefined, `no response to ${request.text}`);
        check(response, request, outside.root);
        count(response.status);
        // Deno rejects some malformed requests without a length and closes the connection.
        const isClosed = !response.headers.has("content-length") && response.status === 400;
        if (isClosed || response.headers.get("connection") === "close") await reconnect();
      }
      client[Symbol.dispose]();
    }));
    other.close();
    await Promise.all([plain.shutdown(), secure.shutdown()]);
  }
}

if (import.meta.main) {
  const { values } = parseArgs({ options: { seconds: { type: "string" }, seed: { type: "string" } } });
  const seed = Number(values.seed ?? Date.now() % 1e6);
  console.log(`seed ${seed}`);
  const statuses = await fuzz({ seconds: Number(values.seconds ?? 60), seed });
  console.log([...statuses].sort().map(([status, count]) => `${status}: ${count}`).join(", "));
}
