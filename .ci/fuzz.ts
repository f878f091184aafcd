/**
 * Sends random hostile requests to http-server, over raw sockets and over HTTP/2, until something is wrong or the time is
 * over; `server_test.ts` does the same with a fixed seed.
 *
 *     deno task fuzz [--seconds N] [--seed N]
 *
 * Needs Linux, for a FIFO and for what `/proc` tells.
 *
 * @module
 */

import { assert } from "@std/assert";
import { join } from "@std/path";
import http2 from "node:http2";
import { parseArgs } from "node:util";
import { createHandler, type Options } from "../server.ts";
import { makeCertificate } from "./certificate.ts";
import { chmod, openFiles, RawClient, Site, withoutRights } from "./fixtures.ts";

const SECRET = "THE SECRET";

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

/** A request, and the same as the bytes of HTTP/1.1. */
type Hostile = { method: string; target: string; fields: [string, string][]; text: string };

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
  const fields: [string, string][] = [["Host", random() < 0.1 ? pick(FUZZ_HOSTS) : "h"]];
  for (const [name, values] of Object.entries(FUZZ_FIELDS)) if (random() < 0.1) fields.push([name, pick(values)]);
  const lines = [`${method} ${target} HTTP/1.1`, ...fields.map((field) => field.join(": "))];
  return { method, target, fields, text: `${lines.join("\r\n")}\r\n\r\n` };
}

/** A client of HTTP/2, which connects again where a malformed request has ended its connection. */
function connectHttp2(port: number, ca: string) {
  const connect = () => http2.connect(`https://localhost:${port}`, { ca }).on("error", () => {});
  let session = connect();
  const send = ({ method, target, fields }: Hostile) =>
    new Promise<{ status: number; headers: Headers; text: string } | undefined>((resolve) => {
      const own = fields.filter(([name]) => !/^(?:host|upgrade|content-length)$/i.test(name)).map((
        [name, value],
      ) => [name.toLowerCase(), value]);
      if (session.closed || session.destroyed) session = connect();
      const stream = session.request({ ...Object.fromEntries(own), ":method": method, ":path": target });
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

/** Throws where an answer is one that nobody should get. */
function check(answer: { status: number; headers: Headers; text: string }, { target, text }: Hostile, folder: string) {
  assert(answer.status < 500, `${answer.status} to ${text}`);
  assert(!answer.text.includes(SECRET) && !answer.text.includes("root:x:"), `the secret, to ${text}`);
  assert(!answer.text.includes(folder), `a path, to ${text}`);
  const location = answer.headers.get("location");
  assert(location === null || /^\/(?!\/)[!-~]*$/.test(location), `${location}, to ${target}`);
}

/** Returns how often each status came. Throws at the first answer that is wrong, and where a file stays open. */
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
  const end = Date.now() + seconds * 1000;
  const { cert, key } = await makeCertificate();
  const variants: Partial<Options>[] = [{}, { spa: true, cors: true }, { listing: false }, { maxAge: 9, base: "/sub" }];
  let next = 0;
  while (next < requests && Date.now() < end) {
    // With rights that some files forbid, and with a warm cache.
    await withoutRights(() => fuzzRound(variants[next / 5000 % 4]!, seeded(seed + next / 5000)));
    next += 5000;
  }
  assert(openFiles(outside.root) === 0, "a file stayed open");
  return statuses;

  /** Sends 5,000 requests to a new server, from four clients. */
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
      for (let left = 1250; left > 0 && Date.now() < end; left--) {
        const request = randomRequest(random);
        if (random() < 0.1) {
          const answer = await other.send(request);
          if (answer === undefined) continue; // it was refused before it came to the handler
          check(answer, request, outside.root);
          count(answer.status);
          continue;
        }
        await client.send(request.text);
        if (random() < 0.01) { // a client that goes away
          await reconnect();
          continue;
        }
        const answer = await client.receive(request.method);
        assert(answer !== undefined, `no answer to ${request.text}`);
        check(answer, request, outside.root);
        count(answer.status);
        // What doesn't parse ends the connection.
        if (answer.status === 400 || answer.headers.get("connection") === "close") await reconnect();
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
