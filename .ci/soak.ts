/**
 * Exposes http-server to the faults of clients and disks and prints the results: `deno task soak`.
 *
 *     deno task soak [--short] [--only word,word]
 *
 * Each fault prints a row: the fault, the number of runs, the result, and whether all checks passed. The exit code is 1 if
 * a check failed. `--only` runs the faults whose names contain one of the words. `--short` does less of everything and
 * ignores timing, for busy machines. All traffic stays on 127.0.0.1. The soak needs Linux, because it reads open files and
 * memory from `/proc`.
 *
 * @module
 */

import { parseArgs } from "node:util";
import { gunzipSync, zstdDecompressSync } from "node:zlib";
import { makeCertificate } from "../server.ts";
import { openFiles, Served, Site } from "./fixtures.ts";

const { values: flags } = parseArgs({ options: { short: { type: "boolean" }, only: { type: "string" } } });
const isShort = flags.short ?? false;
/** Returns a number of repetitions: the given one, or a tenth of it with `--short`. */
const times = (count: number) => isShort ? Math.ceil(count / 10) : count;

/** The outcome of a fault: the number of runs, the result, and the failed checks. */
type Row = { did: string; result: string; broken: string[] };

const MIB = 1 << 20;
const LOCAL = ["--port", "0", "--host", "127.0.0.1"];

/** Waits until a condition is true. Returns false if it is still false after some seconds. */
async function becomes(condition: () => boolean, seconds = 20): Promise<boolean> {
  for (const end = Date.now() + seconds * 1000; Date.now() < end; await pause(50)) if (condition()) return true;
  return false;
}

function pause(milliseconds: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, milliseconds));
}

/** Returns the resident memory of a server, in bytes. */
function memoryOf(server: Served): number {
  const [, kib] = /VmRSS:\s+(\d+)/.exec(Deno.readTextFileSync(`/proc/${server.pid}/status`))!;
  return Number(kib) * 1024;
}

function openFilesOf(server: Served): number {
  return [...Deno.readDirSync(`/proc/${server.pid}/fd`)].length;
}

/** Returns the processor time that a server has used, in hundredths of a second. */
function workOf(server: Served): number {
  const fields = Deno.readTextFileSync(`/proc/${server.pid}/stat`).replace(/.*\) /, "").split(" ");
  return Number(fields[11]) + Number(fields[12]);
}

/** Replaces a file atomically, as an editor or a deployment does. */
function replaceFile(file: string, content: string | Uint8Array): void {
  const next = `${file}.next`;
  if (typeof content === "string") Deno.writeTextFileSync(next, content);
  else Deno.writeFileSync(next, content);
  Deno.renameSync(next, file);
}

/** Starts a server with HTTPS and a client that only uses HTTP/2. */
async function serveHttp2(site: Site) {
  const { cert, key } = await makeCertificate();
  const secrets = await Site.lay({ "cert.pem": cert, "key.pem": key });
  const server = await Served.start([
    ...[...LOCAL, "--quiet", "--cert", secrets.file("cert.pem"), "--key", secrets.file("key.pem"), site.root],
  ]);
  const client = Deno.createHttpClient({ caCerts: [cert], http1: false, http2: true });
  return { server, client, secrets };
}

/** Starts 8 downloads, makes a change and returns how each one ended: whole, mixed (from two versions) or aborted. */
async function downloadWhile(url: string, client: Deno.HttpClient | undefined, change: () => void): Promise<string[]> {
  const responses = await Promise.all(Array.from({ length: 8 }, () => fetch(url, { client })));
  const readers = responses.map((response) => response.body!.getReader());
  const first = await Promise.all(readers.map((reader) => reader.read()));
  change();
  return await Promise.all(readers.map(async (reader, index) => {
    const versions = new Set<number>();
    let size = 0;
    try {
      for (let part = first[index]!; !part.done; part = await reader.read()) {
        size += part.value.length;
        versions.add(part.value[0]!).add(part.value.at(-1)!);
      }
    } catch {
      return "aborted";
    }
    if (`${size}` !== responses[index]!.headers.get("content-length")) return "aborted";
    return versions.size === 1 ? "whole" : "mixed";
  }));
}

/** Runs a function in its own process. The function must not use anything else from this file. */
function runElsewhere<Args extends unknown[]>(run: (...args: Args) => void, ...args: Args): Deno.ChildProcess {
  const code = `(${run})(...${JSON.stringify(args)})`;
  return new Deno.Command(Deno.execPath(), { args: ["eval", code], stdout: "piped" }).spawn();
}

/** Swaps the folders `a` and `b`, replaces `file.txt` and switches `link`, all by renames; prints how many times. */
function exchange(root: string, contents: string[], links: string[], mtime: number, milliseconds: number): void {
  Deno.chdir(root);
  let round = 0;
  for (const end = Date.now() + milliseconds; Date.now() < end; round++) {
    Deno.renameSync("a", "free");
    Deno.renameSync("b", "a");
    Deno.renameSync("free", "b");
    Deno.writeTextFileSync("next", contents[round % contents.length]!);
    Deno.utimeSync("next", mtime, mtime);
    Deno.renameSync("next", "file.txt");
    Deno.symlinkSync(links[round % links.length]!, "next");
    Deno.renameSync("next", "link");
  }
  console.log(round);
}

/** Lays folders of files that differ only in content and inode: four and a link in the root `www`, one outside it. */
async function layTwins(mtime: number) {
  const sizes = { "small.txt": 4096, "big.txt": 1_200_000 }; // one that the server caches, one that it streams
  const text = (version: string, size: number) => `${version} `.repeat(size).slice(0, size);
  const tree = ["www/a", "www/b", "www/one", "www/two", "OUTSIDE"].flatMap((folder) =>
    Object.entries(sizes).map(([name, size]) => [`${folder}/${name}`, text(`${folder}/${name}`, size)] as const)
  );
  const versions = ["first", "second", "third"].map((version) => text(version, 4096));
  const site = await Site.lay({ ...Object.fromEntries(tree), "www/file.txt": versions[0]! });
  site.write({ "OUTSIDE/OUTSIDE.txt": "", "www/link": { link: "one" } });
  for (const [name] of [...tree, ["www/file.txt"]]) Deno.utimeSync(site.file(name), mtime, mtime);
  const files = ["a", "b", "link"].flatMap((folder) => Object.keys(sizes).map((name) => `${folder}/${name}`));
  const known = new Set([...versions, ...tree.map(([, content]) => content)]);
  return { site, files: [...files, "file.txt"], versions, known };
}

/** Appends lines to a log without ever pausing. Truncates it to `start` bytes when it reaches `limit` bytes. */
function appendLines(log: string, start: number, limit: number): void {
  const file = Deno.openSync(log, { append: true });
  const line = new TextEncoder().encode("a line of a log\n");
  for (let size = start;; size += line.length) {
    if (size >= limit) file.truncateSync(size = start);
    file.writeSync(line);
  }
}

/** Returns a body without its content coding. */
function decode(coding: string | null, bytes: Uint8Array<ArrayBuffer>): string {
  const decoded = coding === "gzip" ? gunzipSync(bytes) : coding === "zstd" ? zstdDecompressSync(bytes) : bytes;
  return new TextDecoder().decode(decoded);
}

/** Sends a GET on a new connection and returns the status, the announced length and the actual length of the body. */
async function measure(port: number, path: string, range?: string) {
  const connection = await Deno.connect({ hostname: "127.0.0.1", port });
  const lines = [`GET /${path} HTTP/1.1`, "Host: localhost", "Connection: close", ...range ? [`Range: ${range}`] : []];
  await connection.write(new TextEncoder().encode(`${lines.join("\r\n")}\r\n\r\n`));
  let [head, received] = ["", 0];
  try {
    for await (const chunk of connection.readable) {
      received += chunk.length;
      if (!head.includes("\r\n\r\n")) head += new TextDecoder("latin1").decode(chunk);
    }
  } catch {
    // The server reset the connection: the response is incomplete.
  }
  const announced = Number(/^content-length: (\d+)\r$/im.exec(head)?.[1]);
  return { status: Number(head.split(" ")[1]), announced, received: received - head.indexOf("\r\n\r\n") - 4 };
}

const faults: Record<string, () => Promise<Row>> = {
  async "a 50 MB file changes while 8 clients download it"() {
    const [one, two] = [new Uint8Array(50e6).fill(1), new Uint8Array(50e6).fill(2)];
    await using site = await Site.lay({ "big.bin": one });
    const file = site.file("big.bin");
    const changes: Record<string, () => void> = {
      replaced: () => replaceFile(file, two),
      deleted: () => Deno.removeSync(file),
      truncated: () => Deno.truncateSync(file, 1000),
      grown: () => Deno.writeFileSync(file, two.subarray(0, 1e6), { append: true }),
      overwritten: () => {
        using handle = Deno.openSync(file, { write: true });
        for (let written = 0; written < two.length;) written += handle.writeSync(two.subarray(written));
      },
    };
    const { server: https, client, secrets } = await serveHttp2(site);
    await using _secrets = secrets;
    await using _https = https;
    await using http = await Served.start([...LOCAL, "--quiet", site.root]);
    const results: string[] = [];
    const broken: string[] = [];
    for (const [name, change] of Object.entries(changes)) {
      const ends = new Map<string, number>();
      for (const [url, http2] of [[http.url, undefined], [`https://localhost:${https.port}/`, client]] as const) {
        for (let round = 0; round < times(5); round++) {
          replaceFile(file, one);
          for (const end of await downloadWhile(`${url}big.bin`, http2, change)) {
            ends.set(end, (ends.get(end) ?? 0) + 1);
            if (end === "mixed" && name !== "overwritten") broken.push(`${name}: a mixture of versions looks complete`);
          }
        }
      }
      results.push(`${name}: ${[...ends].map(([end, count]) => `${count} ${end}`).join(", ")}`);
    }
    client.close();
    return { did: `${times(5)} times each, HTTP/1.1 and HTTP/2`, result: results.join("; "), broken };
  },

  async "a 4 KB file is rewritten while 8 clients read it"() {
    const text = (version: number) => `${version} `.padEnd(4096, "compressible ");
    await using site = await Site.lay({ "a.txt": text(0) });
    await using server = await Served.start([...LOCAL, "--quiet", site.root]);
    const tags = new Map<string, string>();
    const broken: string[] = [];
    let [written, isDone, reads] = [0, false, 0];
    const clients = Array.from({ length: 8 }, async (_, index) => {
      while (!isDone) {
        const least = written;
        const accept = ["identity", "gzip", "zstd"][index % 3]!;
        const response = await fetch(`${server.url}a.txt`, { headers: { "accept-encoding": accept } });
        const isPlain = !response.headers.has("content-encoding") || accept === "gzip"; // `fetch` decodes gzip
        const body = await response.text();
        reads++;
        if (response.status !== 200) broken.push(`status ${response.status}`);
        if (!isPlain) continue;
        const version = parseInt(body);
        if (!(version >= least) || body !== text(version)) broken.push(`version ${version} after ${least}`);
        const tag = response.headers.get("etag");
        if (tag !== null && (tags.get(tag) ?? body) !== body) broken.push(`ETag ${tag} for two contents`);
        if (tag !== null) tags.set(tag, body);
      }
    });
    for (let version = 1; version <= times(2000); version++) {
      replaceFile(site.file("a.txt"), text(version));
      written = version;
      await pause(2);
    }
    isDone = true;
    await Promise.all(clients);
    return { did: `${times(2000)} times`, result: `${reads} reads, ${tags.size} ETags`, broken };
  },

  async "downloads are aborted at random points"() {
    await using site = await Site.lay({ "big.bin": new Uint8Array(50e6), "a.txt": "text ".repeat(1e5) });
    await using server = await Served.start([...LOCAL, "--quiet", site.root]);
    const abort = async (count: number) => {
      for (let done = 0; done < count; done += 10) {
        await Promise.all(Array.from({ length: 10 }, async (_, index) => {
          const reader = (await fetch(`${server.url}${index % 2 ? "a.txt" : "big.bin"}`)).body!.getReader();
          for (let left = Math.random() * 5e6; left > 0;) {
            const { done, value } = await reader.read();
            if (done) break;
            left -= value.length;
          }
          await reader.cancel();
        }));
      }
    };
    await abort(times(300)); // warm up, because the server keeps some memory after its first responses
    const [files, memory] = [openFilesOf(server), memoryOf(server)];
    await abort(times(1000));
    const broken = [];
    if (!await becomes(() => openFilesOf(server) <= files)) broken.push(`${openFilesOf(server)} files remain open`);
    if (!isShort && !await becomes(() => memoryOf(server) < memory + 10 * MIB)) broken.push("memory is not released");
    const grown = Math.round((memoryOf(server) - memory) / MIB);
    return {
      did: `${times(1000)} times`,
      result: `${files} open files before, ${openFilesOf(server)} after; memory grew by ${grown} MiB`,
      broken,
    };
  },

  async "clients that are idle, send half a request, or read a byte a second"() {
    await using site = await Site.lay({ "big.bin": new Uint8Array(50e6), "a.txt": "a" });
    await using server = await Served.start([...LOCAL, "--quiet", site.root], {
      shell: "ulimit -n 16384; exec $SERVER",
    });
    const connections: Deno.Conn[] = [];
    const broken: string[] = [];
    const results: string[] = [];
    const crowds: [string, number, string][] = [
      ["idle", times(2000), ""],
      ["half a request", times(500), "GET /a.txt HTTP/1.1\r\nHost:"],
      ["slow", times(500), "GET /big.bin HTTP/1.1\r\nHost: localhost\r\n\r\n"],
    ];
    for (const [name, count, request] of crowds) {
      const before = memoryOf(server);
      for (let index = 0; index < count; index++) {
        const connection = await Deno.connect({ hostname: "127.0.0.1", port: server.port });
        if (request !== "") await connection.write(new TextEncoder().encode(request));
        if (name === "slow") await connection.read(new Uint8Array(1));
        connections.push(connection);
      }
      results.push(`${name}: ${Math.max(0, Math.round((memoryOf(server) - before) / count / 1024))} KiB each`);
      const text = await (await fetch(`${server.url}a.txt`)).text();
      if (text !== "a") broken.push(`${name}: other clients get no response`);
    }
    const start = performance.now();
    const code = await server.stop();
    const seconds = (performance.now() - start) / 1000;
    if (code !== 0 || seconds > (isShort ? 20 : 5)) broken.push(`stop: exit code ${code}, ${seconds.toFixed(1)} s`);
    for (const connection of connections) connection.close();
    results.push(`stopped in ${seconds.toFixed(1)} s`);
    return { did: crowds.map(([name, count]) => `${count} ${name}`).join(", "), result: results.join("; "), broken };
  },

  async "100 clients use all of the 64 files that the server may open"() {
    await using site = await Site.lay({ "big.bin": new Uint8Array(5e6), "a.txt": "a" });
    await using server = await Served.start([...LOCAL, "--quiet", site.root], { shell: "ulimit -n 64; exec $SERVER" });
    let recovered = 0;
    for (let round = 0; round < times(10); round++) {
      const connections = [];
      for (let index = 0; index < 100; index++) {
        const connection = await Deno.connect({ hostname: "127.0.0.1", port: server.port }).catch(() => undefined);
        await connection?.write(new TextEncoder().encode("GET /big.bin HTTP/1.1\r\nHost: h\r\n\r\n")).catch(() => {});
        connections.push(connection);
      }
      await pause(100);
      for (const connection of connections) connection?.close();
      const signal = () => AbortSignal.timeout(1000);
      for (let tries = 0; tries < 20; tries++) {
        const response = await fetch(`${server.url}a.txt`, { signal: signal() }).catch(() => undefined);
        if (response?.status === 200 && await response.text() === "a") {
          recovered++;
          break;
        }
        await response?.body?.cancel();
        await pause(100); // the server has not closed the old connections yet
      }
    }
    const broken = recovered === times(10) ? [] : ["the server does not recover"];
    return { did: `${times(10)} times`, result: `recovered ${recovered} times`, broken };
  },

  async "folders, files and links are exchanged by renames under load"() {
    const mtime = 784111777;
    const links = ["one", "two", "../OUTSIDE"];
    const { site, files, versions, known } = await layTwins(mtime);
    await using _site = site;
    await using server = await Served.start([...LOCAL, "--quiet", site.file("www")]);
    await pause(2500); // the server does not cache files that changed in the last two seconds
    const statuses = new Map<number, number>();
    const broken: string[] = [];
    const get = async (path: string, accept: string) => {
      const response = await fetch(server.url + path, { headers: { "accept-encoding": accept } });
      const coding = response.headers.get("content-encoding");
      const body = decode(coding === "gzip" ? null : coding, await response.bytes()); // `fetch` decodes gzip
      return { status: response.status, body };
    };
    const request = async () => {
      const pick = (items: string[]) => items[Math.floor(Math.random() * items.length)]!;
      const path = pick([...files, "a/", "link/"]);
      try {
        const { status, body } = await get(path, pick(["identity", "gzip", "zstd"]));
        statuses.set(status, (statuses.get(status) ?? 0) + 1);
        if (status >= 500) broken.push(`status ${status} for ${path}`);
        if (body.includes("OUTSIDE")) broken.push(`${path} is served from outside the root`);
        if (status === 200 && !path.endsWith("/") && !known.has(body)) broken.push(`wrong content of ${path}`);
      } catch (error) {
        broken.push(`the response for ${path} is incomplete: ${error}`);
      }
    };
    const compareWithDisk = async () => {
      for (const path of files) {
        const file = Deno.realPathSync(site.file(`www/${path}`));
        const content = file.includes("OUTSIDE") ? undefined : Deno.readTextFileSync(file);
        for (const accept of ["identity", "identity", "gzip", "gzip", "zstd", "zstd"]) {
          const { status, body } = await get(path, accept);
          const isRight = content === undefined ? status === 404 : status === 200 && body === content;
          if (!isRight) broken.push(`${path} stays wrong (${accept})`);
        }
      }
    };
    let rounds = 0;
    for (let burst = 0; burst < times(40); burst++) {
      await using exchanging = runElsewhere(exchange, site.file("www"), versions, links, mtime, 250);
      let isDone = false;
      const output = exchanging.output().finally(() => isDone = true);
      await Promise.all(Array.from({ length: 8 }, async () => {
        while (!isDone) await request();
      }));
      rounds += Number(new TextDecoder().decode((await output).stdout));
      await compareWithDisk();
    }
    await pause(2500); // until the server caches all files again
    await compareWithDisk();
    if (!await becomes(() => openFiles(site.root, server.pid) === 0)) broken.push("a file remains open");
    const result = [...statuses].sort().map((pair) => pair.join(": ")).join(", ");
    return { did: `${rounds} times in ${times(40)} bursts, 8 clients`, result, broken };
  },

  async "a log grows without a pause while 4 clients request it"() {
    const logs = [
      { name: "big.log", start: 2_000_000, limit: 300_000_000 }, // which it never reaches
      { name: "small.log", start: 4096, limit: 100_000 }, // which it reaches several times a second
    ];
    await using site = await Site.lay(
      Object.fromEntries(logs.map(({ name, start }) => [name, "a line of a log\n".repeat(start / 16)])),
    );
    await using server = await Served.start([...LOCAL, "--quiet", site.root]);
    const ranges = [undefined, "bytes=0-99", undefined, "bytes=-1000", undefined, "bytes=1000-"];
    const results: string[] = [];
    const broken: string[] = [];
    for (const { name, start, limit } of logs) {
      await using _writer = runElsewhere(appendLines, site.file(name), start, limit);
      const size = () => Deno.statSync(site.file(name)).size;
      if (!await becomes(() => size() > start)) broken.push(`${name} does not grow`);
      const statuses = new Map<number, number>();
      let requests = 0;
      await Promise.all(Array.from({ length: 4 }, async () => {
        while (requests < times(200)) {
          const range = ranges[requests++ % ranges.length];
          const { status, announced, received } = await measure(server.port, name, range);
          statuses.set(status, (statuses.get(status) ?? 0) + 1);
          if (status !== (range === undefined ? 200 : 206)) broken.push(`status ${status} for ${name}`);
          else if (received !== announced) broken.push(`${received} bytes of ${name} instead of ${announced}`);
        }
      }));
      const counts = [...statuses].sort().map((pair) => pair.join(": ")).join(", ");
      results.push(`${name}: ${counts}, ${size()} bytes at the end`);
    }
    return { did: `${times(200)} requests each`, result: results.join("; "), broken };
  },

  async "the root is a link that is switched to the next release under load"() {
    const count = times(500);
    await using site = await Site.lay(
      Object.fromEntries(Array.from({ length: count }, (_, index) => [`r${index}/index.html`, `${index}`])),
    );
    const root = site.file("current");
    Deno.symlinkSync("r0", root);
    await using server = await Served.start([...LOCAL, "--quiet", root]);
    const broken: string[] = [];
    let [isDone, reads] = [false, 0];
    const clients = Array.from({ length: 4 }, async () => {
      for (let last = 0; !isDone; reads++) {
        const response = await fetch(server.url);
        const release = Number(await response.text());
        if (response.status !== 200) broken.push(`status ${response.status}`);
        else if (release < last) broken.push(`release ${release} after ${last}`);
        last = release;
      }
    });
    for (let release = 1; release < count; release++) {
      Deno.symlinkSync(`r${release}`, site.file("next"));
      Deno.renameSync(site.file("next"), root);
      await pause(5);
    }
    isDone = true;
    await Promise.all(clients);
    return { did: `${count - 1} times, 4 clients`, result: `${reads} pages`, broken };
  },

  async "the root is removed and created again under load"() {
    await using site = await Site.lay({ "www/index.html": "page" });
    await using server = await Served.start([...LOCAL, "--quiet", site.file("www")]);
    const statuses = new Map<number, number>();
    let isDone = false;
    const clients = Array.from({ length: 4 }, async () => {
      while (!isDone) {
        const response = await fetch(server.url);
        await response.text();
        statuses.set(response.status, (statuses.get(response.status) ?? 0) + 1);
      }
    });
    for (let round = 0; round < times(500); round++) {
      Deno.removeSync(site.file("www"), { recursive: true });
      await pause(2);
      site.write({ "www/index.html": "page" });
      await pause(2);
    }
    isDone = true;
    await Promise.all(clients);
    const last = await (await fetch(server.url)).text();
    const broken = [...statuses.keys()].filter((status) => status >= 500).map((status) => `status ${status}`);
    if (last !== "page") broken.push("the new page is not served");
    return { did: `${times(500)} times`, result: [...statuses].map((pair) => pair.join(": ")).join(", "), broken };
  },

  async "five clients request a listing of 100,000 names and disconnect"() {
    const names = Array.from({ length: times(100_000) }, (_, index) => [`many/${index}.txt`, ""]);
    await using site = await Site.lay({ ...Object.fromEntries(names), "a.txt": "a" });
    await using server = await Served.start([...LOCAL, "--quiet", site.root]);
    await (await fetch(server.url)).text(); // the first listing takes 20 ms longer
    const wait = async () => {
      const start = performance.now();
      await (await fetch(`${server.url}a.txt`)).text();
      return performance.now() - start;
    };
    const leaving = Array.from({ length: 5 }, async () => {
      const signal = AbortSignal.timeout(1000);
      await fetch(`${server.url}many/`, { signal }).then((response) => response.text()).catch(() => "timed out");
    });
    let longest = 0;
    for (const end = Date.now() + 1500; Date.now() < end; await pause(2)) longest = Math.max(longest, await wait());
    await Promise.all(leaving);
    const broken = [];
    const isIdle = async () => {
      const before = workOf(server);
      await pause(500);
      return workOf(server) - before <= 5;
    };
    let tries = 0; // a listing is completed even if nobody waits for it
    while (!await isIdle() && tries < 40) tries++;
    if (tries === 40) broken.push("the server is still busy after 20 s");
    if (!isShort && longest > 100) broken.push("other clients wait too long");
    return {
      did: `${names.length} names`,
      result: `other clients waited up to ${Math.round(longest)} ms`,
      broken,
    };
  },

  async "files are replaced under a mix of requests"() {
    const text = (index: number, version: number) => `${index} ${version} `.padEnd(500 + index * 40, `file ${index} `);
    const tree = Array.from({ length: 500 }, (_, index) => [`${index % 20}/${index}.txt`, text(index, 0)]);
    await using site = await Site.lay(Object.fromEntries(tree));
    // V8 enlarges its semi-space twice in the first minute or so, the last time by 25 MiB. Fix its size, so that only memory
    // that the server keeps counts as growth.
    const shell = "DENO_V8_FLAGS=--max-semi-space-size=4 exec $SERVER";
    await using server = await Served.start([...LOCAL, "--quiet", site.root], { shell });
    const seconds = times(60);
    const end = Date.now() + seconds * 1000;
    const broken: string[] = [];
    let reads = 0;
    let writes = 0;
    const clients = Array.from({ length: 8 }, async (_, client) => {
      while (Date.now() < end) {
        const index = Math.floor(Math.random() * 500);
        const path = [
          `${index % 20}/${index}.txt`,
          `${index % 20}/`,
          `${index}/none`,
        ][Math.random() < 0.9 ? 0 : 1 + client % 2]!;
        const accept = Math.random() < 0.5 ? "gzip" : "identity";
        const response = await fetch(server.url + path, { headers: { "accept-encoding": accept } });
        const body = await response.text();
        reads++;
        if (response.status >= 500) broken.push(`status ${response.status} for ${path}`);
        if (!path.endsWith(".txt")) continue;
        const version = Number(body.split(" ")[1]);
        if (body !== text(index, version)) broken.push(`wrong content of ${path}`);
      }
    });
    const memory: number[] = [];
    for (let second = 0; Date.now() < end; second++) {
      memory.push(memoryOf(server));
      for (let count = 0; count < 50; count++) {
        const index = Math.floor(Math.random() * 500);
        replaceFile(site.file(`${index % 20}/${index}.txt`), text(index, ++writes));
        await pause(19);
      }
    }
    await Promise.all(clients);
    const mean = (values: number[]) => values.reduce((sum, value) => sum + value, 0) / values.length / MIB;
    const [early, late] = [mean(memory.slice(20, 30)), mean(memory.slice(-10))];
    if (!isShort && late > early * 1.1) broken.push("memory grows");
    const figures = isShort ? "" : `; ${Math.round(early)} MiB after 20 s, ${Math.round(late)} MiB at the end`;
    return { did: `${seconds} s, 500 URLs, ${writes} writes`, result: `${reads} responses${figures}`, broken };
  },

  async "--live: 200 pages listen while 10,000 files of 19,000 change at once"() {
    const [files, changes, pages] = [times(19_000), times(10_000), times(200)];
    const tree = Array.from({ length: files }, (_, index) => [`${index % 100}/${index}.txt`, ""]);
    await using site = await Site.lay({ ...Object.fromEntries(tree), "index.html": "page" });
    let start = performance.now();
    await using server = await Served.start([...LOCAL, "--quiet", "--live", site.root]);
    const started = (performance.now() - start) / 1000;
    for (let index = 0; index < files; index += 50) { // only files that were requested are looked at
      await Promise.all(
        tree.slice(index, index + 50).map(async ([name]) => await (await fetch(server.url + name)).text()),
      );
    }
    const page = await (await fetch(server.url, { headers: { accept: "text/html" } })).text();
    const [, version] = /script\.js(\?[^"]+)/.exec(page)!;
    const events = await Promise.all(Array.from({ length: pages }, async () => {
      const count = { reloads: 0 };
      const { body } = await fetch(`${server.url}.live-reload/events${version}`);
      (async () => {
        for await (const text of body!.pipeThrough(new TextDecoderStream())) {
          count.reloads += text.split("data:").length - 1;
        }
      })().catch(() => {});
      return count;
    }));
    for (const [name] of tree.slice(0, changes)) Deno.writeTextFileSync(site.file(name!), "changed");
    const areAll = await becomes(() => events.every(({ reloads }) => reloads > 0));
    await pause(1000); // wait for a second reload, which would be wrong
    const most = Math.max(...events.map(({ reloads }) => reloads));
    start = performance.now();
    const code = await server.stop();
    const stopped = (performance.now() - start) / 1000;
    const broken = [];
    if (!areAll) broken.push("a page did not reload");
    if (most > 3) broken.push(`${most} reloads`); // one for each two seconds of changes
    if (code !== 0 || !isShort && (started > 2 || stopped > 1)) broken.push(`exit code ${code}, or too slow`);
    const result = `${pages} reloads; started in ${started.toFixed(1)} s, stopped in ${stopped.toFixed(1)} s`;
    return { did: `${changes} changes`, result, broken };
  },
};

const wanted = flags.only?.split(",") ?? [""];
let isBroken = false;
console.log("| fault | runs | result | passed |\n| --- | --- | --- | --- |");
for (const [name, run] of Object.entries(faults)) {
  if (!wanted.some((word) => name.includes(word))) continue;
  const { did, result, broken } = await run();
  isBroken ||= broken.length > 0;
  const first = [...new Set(broken)].slice(0, 3).join(", ");
  console.log(
    `| ${name} | ${did} | ${result} | ${broken.length === 0 ? "yes" : `NO: ${broken.length} times: ${first}`} |`,
  );
}
Deno.exit(isBroken ? 1 : 0);
