/**
 * Compares the speed of http-server with other installed servers on the same folder: `deno task bench`.
 *
 * `taskset`, if installed, pins every server to one processor core and the load generator `wrk` to another. Each row is
 * measured in several rounds that alternate between the servers. The table shows the medians as ratios to plain
 * `serveDir`, which is 1 (or to the first server if `serveDir` is left out), because ratios are more reliable than
 * absolute numbers on a noisy machine. All traffic stays on 127.0.0.1. The benchmark needs Linux and `wrk`; the other
 * servers are optional. nginx, Caddy and lighttpd are configured to compress on the fly.
 *
 *     deno task bench [--rounds N] [--seconds N] [--only server,server] [--rows word,word]
 *
 * @module
 */

import { serveDir } from "@std/http/file-server";
import { dirname, fromFileUrl, join } from "@std/path";
import { parseArgs } from "node:util";

/** The response headers of http-server, which the bare handler sends as well. */
const HEADERS = {
  "accept-ranges": "bytes",
  "content-length": "188",
  "content-type": "text/html; charset=UTF-8",
  "etag": 'W/"bc-47DEQpj8HBSa+/TImW+5JCeuQeR"',
  "last-modified": "Sun, 06 Nov 1994 08:49:37 GMT",
  "vary": "Accept-Encoding",
  "x-content-type-options": "nosniff",
  "cache-control": "no-cache",
};

const here = dirname(fromFileUrl(import.meta.url));
const AS_A_BROWSER = ["-H", "Accept-Encoding: gzip, deflate, br, zstd"];
const BIG_SIZE = 100_000_000;

interface Server {
  name: string;
  /** Returns the command that serves a folder on a port. Configuration files go into `temp`. */
  command(port: number, folder: string, temp: string): string[] | Promise<string[]>;
}

const deno = [Deno.execPath(), "run", "--quiet", "--no-check", "--allow-net", "--allow-read"];

const SERVERS: Server[] = [
  {
    name: "http-server (this)",
    command: (port, folder) => [...deno, join(here, "../server.ts"), "-q", "-a", "127.0.0.1", "-p", `${port}`, folder],
  },
  {
    name: "the same, with log",
    command: (port, folder) => [...deno, join(here, "../server.ts"), "-a", "127.0.0.1", "-p", `${port}`, folder],
  },
  { name: "plain serveDir", command: (port, folder) => [...deno, join(here, "bench.ts"), "plain", `${port}`, folder] },
  { name: "bare handler", command: (port, folder) => [...deno, join(here, "bench.ts"), "bare", `${port}`, folder] },
  {
    name: "nginx",
    async command(port, folder, temp) {
      const config = join(temp, "nginx.conf");
      await Deno.writeTextFile(
        config,
        `daemon off; worker_processes 1; pid ${temp}/nginx.pid; error_log stderr crit; user root;
         events { worker_connections 1024; }
         http { access_log off; sendfile on; tcp_nopush on; keepalive_requests 1000000000; default_type text/plain;
           types { text/html html; text/javascript js; } gzip on; gzip_types text/javascript; gzip_min_length 1024;
           server { listen 127.0.0.1:${port}; root ${folder}; } }`,
      );
      return ["nginx", "-c", config];
    },
  },
  {
    name: "caddy",
    async command(port, folder, temp) {
      const config = join(temp, "Caddyfile");
      await Deno.writeTextFile(
        config,
        `{\n admin off\n auto_https off\n}\nhttp://127.0.0.1:${port} {\n root * ${folder}\n encode zstd gzip\n file_server\n}\n`,
      );
      return ["env", `HOME=${temp}`, "caddy", "run", "--config", config, "--adapter", "caddyfile"];
    },
  },
  {
    name: "lighttpd",
    async command(port, folder, temp) {
      const config = join(temp, "lighttpd.conf");
      await Deno.writeTextFile(
        config,
        `server.document-root = "${folder}"\nserver.port = ${port}\nserver.bind = "127.0.0.1"
         server.max-keep-alive-requests = 65535\nserver.modules = ("mod_deflate")
         index-file.names = ("index.html")\nmimetype.assign = (".html" => "text/html", ".js" => "text/javascript")
         deflate.mimetypes = ("text/")\ndeflate.allowed-encodings = ("br", "gzip")\n`,
      );
      return ["lighttpd", "-D", "-f", config];
    },
  },
  {
    name: "http-server (npm)",
    command: (port, folder) => ["http-server", folder, "-s", "-a", "127.0.0.1", "-p", `${port}`],
  },
  { name: "serve", command: (port, folder) => ["serve", "-L", "-l", `tcp://127.0.0.1:${port}`, folder] },
  { name: "sirv-cli", command: (port, folder) => ["sirv", folder, "-q", "-H", "127.0.0.1", "-p", `${port}`] },
  {
    name: "python3 -m http.server",
    command: (port, folder) => ["python3", "-m", "http.server", "-b", "127.0.0.1", "-d", folder, `${port}`],
  },
];

interface Row {
  name: string;
  path: string;
  /** Arguments for wrk. */
  wrk?: string[];
  /** The unit of the result; requests per second by default. */
  unit?: "MB/s";
  /** Instead of wrk: how many files to request once each from a server that has just started. */
  first?: number;
  status: number;
}

const ROWS: Row[] = [
  { name: "small page", path: "/", status: 200 },
  { name: "small page, as a browser", path: "/", wrk: AS_A_BROWSER, status: 200 },
  { name: "page two folders down", path: "/sub/folder/", status: 200 },
  { name: "135 KB script", path: "/app.js", status: 200 },
  { name: "135 KB script, as a browser", path: "/app.js", wrk: AS_A_BROWSER, status: 200 },
  { name: "revalidation (304)", path: "/", wrk: ["-H", "If-Modified-Since: @modified"], status: 304 },
  { name: "404", path: "/nothing", status: 404 },
  { name: "404, of 1,000 names", path: "/nothing", wrk: ["-s", "@missing"], status: 404 },
  { name: "404 below a 404.html", path: "/page/nothing", status: 404 },
  { name: "64 KB range of 100 MB", path: "/big.bin", wrk: ["-H", "Range: bytes=50000000-50065535"], status: 206 },
  { name: "bytes=N- of 100 MB", path: "/big.bin", wrk: ["-H", "Range: bytes=99000000-"], status: 206 },
  { name: "100 MB file, MB/s", path: "/big.bin", wrk: ["-c", "4"], unit: "MB/s", status: 200 },
  { name: "10,000 files, the first time", path: "/files/@.txt", first: 10_000, status: 200 },
  { name: "10,000 files, again", path: "/files/0.txt", wrk: ["-s", "@files"], status: 200 },
  { name: "100 scripts, the first time", path: "/scripts/@.js", wrk: AS_A_BROWSER, first: 100, status: 200 },
];

async function layFolder(folder: string): Promise<void> {
  await Deno.writeTextFile(join(folder, "index.html"), "<!DOCTYPE html>".padEnd(188, "x"));
  let seed = 1;
  let script = "";
  while (script.length < 135_000) {
    seed = (seed * 1_103_515_245 + 12_345) % 2 ** 31;
    script += ["const", "return", "function", "document", "element"][seed % 5] + ` ${(seed >> 8).toString(36)};\n`;
  }
  await Deno.writeTextFile(join(folder, "app.js"), script.slice(0, 135_000));
  for (const name of ["sub/folder", "page", "files", "scripts"]) {
    await Deno.mkdir(join(folder, name), { recursive: true });
  }
  await Deno.writeTextFile(join(folder, "sub/folder/index.html"), "<!DOCTYPE html>".padEnd(188, "x"));
  await Deno.writeTextFile(join(folder, "page/404.html"), "<!DOCTYPE html>".padEnd(700, "x"));
  for (let index = 0; index < 100; index++) {
    await Deno.writeTextFile(join(folder, `scripts/${index}.js`), `${index};\n${script.slice(0, 135_000)}`);
  }
  const big = await Deno.open(join(folder, "big.bin"), { write: true, create: true });
  const chunk = new Uint8Array(1_000_000).map((_, index) => index * 31 ^ index >> 7);
  const writer = big.writable.getWriter();
  for (let size = 0; size < BIG_SIZE; size += chunk.length) await writer.write(chunk);
  await writer.close();
  for (let index = 0; index < 10_000; index++) {
    await Deno.writeTextFile(join(folder, `files/${index}.txt`), `file ${index} `.repeat(80 + index % 240));
  }
}

async function has(command: string): Promise<boolean> {
  return (await new Deno.Command("sh", { args: ["-c", `command -v ${command}`], stdout: "null" }).output()).success;
}

function freePort(): number {
  using listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
  return (listener.addr as Deno.NetAddr).port;
}

/** Whether the server and the load generator are pinned to different cores. */
let pinned = false;
const pin = (core: number, command: string[]) => pinned ? ["taskset", "-c", `${core}`, ...command] : command;

/** Starts a server and measures the milliseconds until its first response. */
async function start(command: string[], port: number): Promise<{ child: Deno.ChildProcess; startUp: number }> {
  const [program, ...args] = pin(0, command);
  const before = performance.now();
  const child = new Deno.Command(program!, { args, stdin: "null", stdout: "null", stderr: "null" }).spawn();
  let isOver = false;
  child.status.then(() => isOver = true);
  for (;;) {
    if (isOver || performance.now() - before > 20_000) throw new Error(`can't start ${command.join(" ")}`);
    try {
      const response = await fetch(`http://127.0.0.1:${port}/`);
      await response.body?.cancel();
      return { child, startUp: performance.now() - before };
    } catch {
      await new Promise((resolve) => setTimeout(resolve, 2));
    }
  }
}

async function stop(child: Deno.ChildProcess): Promise<void> {
  child.kill("SIGTERM");
  await child.status;
}

/** Returns the resident memory of a process and its children, in MiB. */
function memoryOf(pid: number): number {
  let kibibytes = 0;
  for (const { name } of Deno.readDirSync("/proc")) {
    try {
      const status = Deno.readTextFileSync(`/proc/${name}/status`);
      const isOurs = name === `${pid}` || /^PPid:\s+(\d+)/m.exec(status)?.[1] === `${pid}`;
      if (isOurs) kibibytes += Number(/^VmRSS:\s+(\d+)/m.exec(status)?.[1] ?? 0);
    } catch {
      // Not a process, or it has exited.
    }
  }
  return kibibytes / 1024;
}

/** Runs wrk once and returns the result in the row's unit. */
async function load(row: Row, port: number, seconds: number, values: Record<string, string>): Promise<number> {
  const options = (row.wrk ?? []).map((option) => option.replace(/@(\w+)/, (_, name) => values[name]!));
  const command = pin(1, [
    "wrk",
    "-t",
    "1",
    "-c",
    "32",
    "-d",
    `${seconds}s`,
    ...options,
    `http://127.0.0.1:${port}${row.path}`,
  ]);
  const { stdout } = await new Deno.Command(command[0]!, { args: command.slice(1) }).output();
  const output = new TextDecoder().decode(stdout);
  if (row.unit === undefined) return Number(/Requests\/sec:\s+([\d.]+)/.exec(output)?.[1]);
  const [, amount, unit] = /Transfer\/sec:\s+([\d.]+)(KB|MB|GB)/.exec(output) ?? [];
  return Number(amount) * { KB: 1e-3, MB: 1, GB: 1e3 }[unit as "KB"];
}

/** Starts a server, requests each file once, eight at a time, and returns the requests per second. */
async function loadFirst({ path, wrk, first = 0 }: Row, server: Server, folder: string, temp: string): Promise<number> {
  const port = freePort();
  const { child } = await start(await server.command(port, folder, temp), port);
  const [, name, value] = /^([\w-]+): (.*)$/.exec(wrk?.[1] ?? "") ?? [];
  const headers: HeadersInit = name === undefined ? { "accept-encoding": "identity" } : { [name]: value! };
  let next = 0;
  const before = performance.now();
  await Promise.all(Array.from({ length: 8 }, async () => {
    while (next < first) {
      await (await fetch(`http://127.0.0.1:${port}${path.replace("@", `${next++}`)}`, { headers })).bytes();
    }
  }));
  const seconds = (performance.now() - before) / 1000;
  await stop(child);
  return first / seconds;
}

async function statusOf(row: Row, port: number, values: Record<string, string>): Promise<number> {
  const headers = new Headers();
  for (const option of row.wrk ?? []) {
    const [, name, value] = /^([\w-]+): (.*)$/.exec(option) ?? [];
    if (name) headers.set(name, value!.replace("@modified", values.modified!));
  }
  const response = await fetch(`http://127.0.0.1:${port}${row.path.replace("@", "0")}`, { headers });
  await response.body?.cancel();
  return response.status;
}

function median(numbers: number[]): number {
  return numbers.sort((a, b) => a - b)[numbers.length >> 1] ?? NaN;
}

function print(name: string, cells: string[]): void {
  console.log(`| ${name.padEnd(28)} | ${cells.map((cell) => cell.padStart(9)).join(" | ")} |`);
}

async function main(): Promise<void> {
  const { values: flags } = parseArgs({
    options: {
      rounds: { type: "string" },
      seconds: { type: "string" },
      only: { type: "string" },
      rows: { type: "string" },
    },
  });
  const rounds = Number(flags.rounds ?? 5);
  const seconds = Number(flags.seconds ?? 2);
  const isWanted = (name: string, list?: string) =>
    list === undefined || list.split(",").some((word) => name.includes(word));
  if (!await has("wrk")) throw new Error("the benchmark needs wrk; install it with your package manager");
  pinned = navigator.hardwareConcurrency > 1 && await has("taskset");
  if (pinned) await new Deno.Command("taskset", { args: ["-a", "-c", "-p", "1", `${Deno.pid}`] }).output();
  if (!pinned) console.log("Not pinned (no taskset, or one core): the ratios are less reliable.\n");

  const temp = await Deno.makeTempDir();
  await Deno.chmod(temp, 0o755);
  const folder = join(temp, "folder");
  await Deno.mkdir(folder);
  await layFolder(folder);
  const writeScript = async (name: string, path: string, count: number) => {
    const file = join(temp, name);
    const next = `n = (n + 7) % ${count}; return wrk.format("GET", "${path}" .. n .. ".txt")`;
    await Deno.writeTextFile(file, `local n = 0\nrequest = function() ${next} end\n`);
    return file;
  };
  const files = await writeScript("files.lua", "/files/", 10_000);
  const missing = await writeScript("missing.lua", "/missing", 1000);
  const modified = (await Deno.stat(join(folder, "index.html"))).mtime!.toUTCString();
  const values = { files, missing, modified };

  const running: { name: string; port: number; child: Deno.ChildProcess }[] = [];
  const notFound: string[] = [];
  try {
    for (const server of SERVERS.filter(({ name }) => isWanted(name, flags.only))) {
      const port = freePort();
      const command = await server.command(port, folder, temp);
      if (!await has(command[0] === "env" ? command[2]! : command[0]!)) notFound.push(server.name);
      else running.push({ name: server.name, port, child: (await start(command, port)).child });
    }
    await new Promise((resolve) => setTimeout(resolve, 2500)); // longer than http-server's settling time

    const baseIndex = Math.max(0, running.findIndex(({ name }) => name === "plain serveDir"));
    print(`ratio to ${running[baseIndex]?.name}`, running.map((_, index) => `${index + 1}`));
    print("---", running.map(() => "---:"));
    const printRatios = (name: string, figures: number[], digits = 2) => {
      const base = figures[baseIndex] ?? NaN;
      print(name, figures.map((figure) => Number.isNaN(figure) ? "-" : (figure / base).toFixed(digits)));
    };
    for (const row of ROWS.filter(({ name }) => isWanted(name, flags.rows))) {
      const figures: number[][] = running.map(() => []);
      const isServed = await Promise.all(
        running.map(async ({ name, port }) =>
          name === "bare handler"
            ? row.path === "/" && row.status === 200
            : await statusOf(row, port, values) === row.status
        ),
      );
      for (let round = 0; round < rounds; round++) {
        for (const [index, { name, port }] of running.entries()) {
          if (!isServed[index]) continue;
          const server = SERVERS.find((server) => server.name === name)!;
          const figure = row.first
            ? await loadFirst(row, server, folder, temp)
            : await load(row, port, seconds, values);
          figures[index]!.push(figure);
        }
      }
      printRatios(row.name, figures.map(median));
    }
    print("memory after the run, MiB", running.map(({ child }) => memoryOf(child.pid).toFixed(0)));

    const startUps: number[][] = running.map(() => []);
    for (let round = 0; round < rounds * 2; round++) {
      for (const [index, { name }] of running.entries()) {
        const port = freePort();
        const server = SERVERS.find((server) => server.name === name)!;
        const { child, startUp } = await start(await server.command(port, folder, temp), port);
        startUps[index]!.push(startUp);
        await stop(child);
      }
    }
    printRatios("time to first response", startUps.map(median));
    console.log(`\n${running.map(({ name }, index) => `${index + 1}: ${name}`).join("; ")}.`);
    console.log("-: the server does not send the expected status for this request.");
    if (notFound.length > 0) console.log(`Not installed: ${notFound.join(", ")}.`);
  } finally {
    for (const { child } of running) await stop(child);
    await Deno.remove(temp, { recursive: true });
  }
}

const [role, port, folder] = Deno.args;
if (role === "plain") {
  Deno.serve(
    { hostname: "127.0.0.1", port: Number(port), onListen() {} },
    (request) => serveDir(request, { fsRoot: folder!, quiet: true }),
  );
} else if (role === "bare") {
  const page = Deno.readTextFileSync(join(folder!, "index.html"));
  Deno.serve(
    { hostname: "127.0.0.1", port: Number(port), onListen() {} },
    () => new Response(page, { headers: HEADERS }),
  );
} else {
  await main();
}
