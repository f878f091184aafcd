/**
 * Does to http-server what clients and disks do on a bad day, and prints what came of it: `deno task soak`.
 *
 *     deno task soak [--short] [--only word,word]
 *
 * Each fault is a row: what was done, how often, what came out, and whether what must hold did hold. It ends with exit
 * code 1 where something did not. `--short` does less of everything and judges no time, for machines that do other work
 * as well. All traffic stays on 127.0.0.1. It needs Linux, whose `/proc` tells open files and memory.
 *
 * @module
 */

import { parseArgs } from "node:util";
import { makeCertificate } from "./certificate.ts";
import { Served, Site } from "./fixtures.ts";

const { values: flags } = parseArgs({ options: { short: { type: "boolean" }, only: { type: "string" } } });
const isShort = flags.short ?? false;
/** Returns how often something is done: in the short form a tenth of it. */
const times = (count: number) => isShort ? Math.ceil(count / 10) : count;

/** What came of a fault: what was done, what came out, and what did not hold. */
type Row = { did: string; came: string; broken: string[] };

const MIB = 1 << 20;
const LOCAL = ["--port", "0", "--host", "127.0.0.1"];

/** Waits until something is so, and returns whether it came to that. */
async function becomes(isSo: () => boolean, seconds = 20): Promise<boolean> {
  for (const end = Date.now() + seconds * 1000; Date.now() < end; await pause(50)) if (isSo()) return true;
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

/** Replaces a file in one step, as an editor or a deployment does. */
function replaceFile(file: string, content: string | Uint8Array): void {
  const next = `${file}.next`;
  if (typeof content === "string") Deno.writeTextFileSync(next, content);
  else Deno.writeFileSync(next, content);
  Deno.renameSync(next, file);
}

/** Starts a server with HTTPS, and a client that speaks HTTP/2 alone. */
async function serveHttp2(site: Site) {
  const { cert, key } = await makeCertificate();
  const secrets = await Site.lay({ "cert.pem": cert, "key.pem": key });
  const server = await Served.start([
    ...[...LOCAL, "--quiet", "--cert", secrets.file("cert.pem"), "--key", secrets.file("key.pem"), site.root],
  ]);
  const client = Deno.createHttpClient({ caCerts: [cert], http1: false, http2: true });
  return { server, client, secrets };
}

/** Returns how a number of downloads ended: complete of one version, complete of two, or broken off. */
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
      return "broken off";
    }
    if (`${size}` !== responses[index]!.headers.get("content-length")) return "broken off";
    return versions.size === 1 ? "whole" : "mixed";
  }));
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
    const came: string[] = [];
    const broken: string[] = [];
    for (const [name, change] of Object.entries(changes)) {
      const ends = new Map<string, number>();
      for (const [url, http2] of [[http.url, undefined], [`https://localhost:${https.port}/`, client]] as const) {
        for (let round = 0; round < times(5); round++) {
          replaceFile(file, one);
          for (const end of await downloadWhile(`${url}big.bin`, http2, change)) {
            ends.set(end, (ends.get(end) ?? 0) + 1);
            if (end === "mixed" && name !== "overwritten") broken.push(`${name}: a mixture looked complete`);
          }
        }
      }
      came.push(`${name}: ${[...ends].map(([end, count]) => `${count} ${end}`).join(", ")}`);
    }
    client.close();
    return { did: `${times(5)} times each, HTTP/1.1 and HTTP/2`, came: came.join("; "), broken };
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
        const isPlain = !response.headers.has("content-encoding") || accept === "gzip"; // `fetch` undoes gzip
        const body = await response.text();
        reads++;
        if (response.status !== 200) broken.push(`status ${response.status}`);
        if (!isPlain) continue;
        const version = parseInt(body);
        if (!(version >= least) || body !== text(version)) broken.push(`version ${version} after ${least}`);
        const tag = response.headers.get("etag");
        if (tag !== null && (tags.get(tag) ?? body) !== body) broken.push(`${tag} for two contents`);
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
    return { did: `${times(2000)} times`, came: `${reads} reads, ${tags.size} tags, none stale`, broken };
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
    await abort(times(300)); // to begin with, it needs memory that it keeps
    const [files, memory] = [openFilesOf(server), memoryOf(server)];
    await abort(times(1000));
    const broken = [];
    if (!await becomes(() => openFilesOf(server) <= files)) broken.push(`${openFilesOf(server)} open files`);
    if (!isShort && !await becomes(() => memoryOf(server) < memory + 10 * MIB)) broken.push("memory stays");
    const grown = Math.round((memoryOf(server) - memory) / MIB);
    return {
      did: `${times(1000)} times`,
      came: `${openFilesOf(server)} open files after ${files}, ${grown} MiB more memory`,
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
    const came: string[] = [];
    const crowds: [string, number, string][] = [
      ["idle", times(2000), ""],
      ["half a request", times(500), "GET /a.txt HTTP/1.1\r\nHost:"],
      ["slow", times(500), "GET /big.bin HTTP/1.1\r\nHost: localhost\r\n\r\n"],
    ];
    for (const [name, count, text] of crowds) {
      const before = memoryOf(server);
      for (let index = 0; index < count; index++) {
        const connection = await Deno.connect({ hostname: "127.0.0.1", port: server.port });
        if (text !== "") await connection.write(new TextEncoder().encode(text));
        if (name === "slow") await connection.read(new Uint8Array(1));
        connections.push(connection);
      }
      came.push(`${name}: ${Math.max(0, Math.round((memoryOf(server) - before) / count / 1024))} KiB each`);
      const answer = await (await fetch(`${server.url}a.txt`)).text();
      if (answer !== "a") broken.push(`no answer beside those that are ${name}`);
    }
    const start = performance.now();
    const code = await server.stop();
    const seconds = (performance.now() - start) / 1000;
    if (code !== 0 || seconds > (isShort ? 20 : 5)) broken.push(`the stop: exit code ${code}, ${seconds.toFixed(1)} s`);
    for (const connection of connections) connection.close();
    came.push(`stopped in ${seconds.toFixed(1)} s`);
    return { did: crowds.map(([name, count]) => `${count} ${name}`).join(", "), came: came.join("; "), broken };
  },

  async "64 open files are allowed, and all are used"() {
    await using site = await Site.lay({ "big.bin": new Uint8Array(5e6), "a.txt": "a" });
    await using server = await Served.start([...LOCAL, "--quiet", site.root], { shell: "ulimit -n 64; exec $SERVER" });
    let answered = 0;
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
          answered++;
          break;
        }
        await response?.body?.cancel();
      }
    }
    const broken = answered === times(10) ? [] : ["it did not answer again"];
    return { did: `100 clients, ${times(10)} times`, came: `answered again ${answered} times`, broken };
  },

  async "the root is a link to a release, and is switched under load"() {
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
    return { did: `${count - 1} times, 4 clients`, came: `${reads} pages, none of an older release`, broken };
  },

  async "the root is removed and made again under load"() {
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
    if (last !== "page") broken.push("the page did not come back");
    return { did: `${times(500)} times`, came: [...statuses].map((pair) => pair.join(": ")).join(", "), broken };
  },

  async "five clients ask for a listing of 100,000 names and give up"() {
    const names = Array.from({ length: times(100_000) }, (_, index) => [`many/${index}.txt`, ""]);
    await using site = await Site.lay({ ...Object.fromEntries(names), "a.txt": "a" });
    await using server = await Served.start([...LOCAL, "--quiet", site.root]);
    await (await fetch(server.url)).text(); // the first listing of all takes 20 ms to load what makes one
    const wait = async () => {
      const start = performance.now();
      await (await fetch(`${server.url}a.txt`)).text();
      return performance.now() - start;
    };
    const leaving = Array.from({ length: 5 }, async () => {
      const signal = AbortSignal.timeout(1000);
      await fetch(`${server.url}many/`, { signal }).then((response) => response.text()).catch(() => "it gave up");
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
    if (!await isIdle() && !await isIdle() && !await isIdle()) broken.push("the work goes on");
    if (!isShort && longest > 100) broken.push("others waited too long");
    return {
      did: `${names.length} names`,
      came: `longest wait of others ${Math.round(longest)} ms; the work ended`,
      broken,
    };
  },

  async "a mix of requests, with the files rewritten underneath"() {
    const text = (index: number, version: number) => `${index} ${version} `.padEnd(500 + index * 40, `file ${index} `);
    const tree = Array.from({ length: 500 }, (_, index) => [`${index % 20}/${index}.txt`, text(index, 0)]);
    await using site = await Site.lay(Object.fromEntries(tree));
    // V8 gives young objects more room in two steps, the last of 25 MiB after a minute or so, and then no more. With the
    // size fixed, what grows is what the server keeps.
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
        if (response.status >= 500) broken.push(`${response.status} to ${path}`);
        if (!path.endsWith(".txt")) continue;
        const version = Number(body.split(" ")[1]);
        if (body !== text(index, version)) broken.push(`wrong bytes of ${path}`);
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
    const figures = isShort ? "" : `; ${Math.round(late)} MiB in the end, ${Math.round(early)} MiB before`;
    return { did: `${seconds} s, 500 URLs, ${writes} writes`, came: `${reads} answers${figures}`, broken };
  },

  async "--live: 200 pages listen while 10,000 files of 30,000 change at once"() {
    const [files, changes, pages] = [times(30_000), times(10_000), times(200)];
    const tree = Array.from({ length: files }, (_, index) => [`${index % 100}/${index}.txt`, ""]);
    await using site = await Site.lay({ ...Object.fromEntries(tree), "index.html": "page" });
    let start = performance.now();
    await using server = await Served.start([...LOCAL, "--quiet", "--live", site.root]);
    const started = (performance.now() - start) / 1000;
    const [, version] = /script\.js(\?[^"]+)/.exec(await (await fetch(server.url)).text())!;
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
    await pause(1000); // another one would come now
    const most = Math.max(...events.map(({ reloads }) => reloads));
    start = performance.now();
    const code = await server.stop();
    const stopped = (performance.now() - start) / 1000;
    const broken = [];
    if (!areAll) broken.push("a page missed it");
    if (most > 1) broken.push(`${most} reloads`);
    if (code !== 0 || !isShort && (started > 2 || stopped > 1)) broken.push(`exit code ${code}, or too slow`);
    const came = `${pages} reloads; started in ${started.toFixed(1)} s, stopped in ${stopped.toFixed(1)} s`;
    return { did: `${changes} changes`, came, broken };
  },
};

const wanted = flags.only?.split(",") ?? [""];
let isBroken = false;
console.log("| fault | done | what came | held |\n| --- | --- | --- | --- |");
for (const [name, run] of Object.entries(faults)) {
  if (!wanted.some((word) => name.includes(word))) continue;
  const { did, came, broken } = await run();
  isBroken ||= broken.length > 0;
  const first = [...new Set(broken)].slice(0, 3).join(", ");
  console.log(
    `| ${name} | ${did} | ${came} | ${broken.length === 0 ? "yes" : `NO: ${broken.length} times: ${first}`} |`,
  );
}
Deno.exit(isBroken ? 1 : 0);
