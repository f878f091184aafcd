/** Helpers that the server tests and the browser tests share: a temporary folder, a server process, a raw client. */

import { dirname, fromFileUrl, join, resolve } from "@std/path";
import process from "node:process";
import type { LIMITS } from "../server.ts";

export const here: string = dirname(dirname(fromFileUrl(import.meta.url)));
export const script: string = join(here, "server.ts");

/** The permissions that the README runs the server with. */
export const PERMISSIONS = ["--allow-net", "--allow-read"];

const isWindows = Deno.build.os === "windows";

/** The most milliseconds that a test waits. Windows gets more, because a process takes seconds to start under Wine. */
const WAIT_LIMIT = isWindows ? 30_000 : 10_000;

/** Waits for a promise. After the limit, calls `onTimeout` and rejects with the name of what it waited for. */
export async function within<T>(promise: Promise<T>, what: string, onTimeout?: () => void): Promise<T> {
  const timeout = Promise.withResolvers<never>();
  const timer = setTimeout(() => {
    timeout.reject(new Error(`waited ${WAIT_LIMIT / 1000} s for ${what}`));
    onTimeout?.();
  }, WAIT_LIMIT);
  try {
    return await Promise.race([promise, timeout.promise]);
  } finally {
    clearTimeout(timer);
  }
}

/** Waits until a condition is true. After the limit, rejects with the name of what it waited for. */
export async function until(condition: () => boolean | Promise<boolean>, what: string): Promise<void> {
  const end = performance.now() + WAIT_LIMIT;
  while (!await condition()) {
    if (performance.now() > end) throw new Error(`waited ${WAIT_LIMIT / 1000} s for ${what}`);
    await new Promise((resolve) => setTimeout(resolve));
  }
}

/** Creates a symbolic link. Windows distinguishes links to files from links to folders. */
export function link(target: string, file: string): void {
  let isFolder = false;
  try {
    isFolder = Deno.statSync(resolve(dirname(file), target)).isDirectory;
  } catch {
    // The target is missing, or the link leads to itself.
  }
  Deno.symlinkSync(target, file, { type: isFolder ? "dir" : "file" });
}

/** Whether this machine has symbolic links. Windows requires the developer mode or an administrator, and Wine has none. */
export const HAS_LINKS: boolean = (() => {
  if (!isWindows) return true;
  const folder = Deno.makeTempDirSync();
  try {
    link("target", join(folder, "link"));
    return Deno.lstatSync(join(folder, "link")).isSymlink;
  } catch {
    return false;
  } finally {
    Deno.removeSync(folder, { recursive: true });
  }
})();

/** Whether a file that is open can be replaced by another one. Windows can do it, but Wine can't. */
export const CAN_REPLACE: boolean = (() => {
  if (!isWindows) return true;
  const folder = Deno.makeTempDirSync();
  const [file, other] = [join(folder, "file"), join(folder, "other")];
  for (const name of [file, other]) Deno.writeTextFileSync(name, "");
  try {
    using _open = Deno.openSync(file);
    Deno.renameSync(other, file);
    return true;
  } catch {
    return false;
  } finally {
    Deno.removeSync(folder, { recursive: true });
  }
})();

/** Removes a folder, even if it contains folders without permissions or, on Windows, files that are being closed. */
export async function removeFolder(folder: string): Promise<void> {
  let lastError: unknown;
  await until(async () => {
    try {
      await Deno.remove(folder, { recursive: true });
      return true;
    } catch (error) {
      if (error instanceof Deno.errors.NotFound) return true;
      lastError = error;
      if (isWindows) return false;
      if (!(error instanceof Deno.errors.PermissionDenied)) throw error;
      allowAccess(folder);
      await Deno.remove(folder, { recursive: true });
      return true;
    }
  }, `the removal of ${folder}`).catch((error) => {
    throw lastError ?? error;
  });
}

/** Gives the user all permissions for a folder and for the folders in it. */
function allowAccess(folder: string): void {
  Deno.chmodSync(folder, 0o700);
  for (const { name, isDirectory } of Deno.readDirSync(folder)) if (isDirectory) allowAccess(join(folder, name));
}

/** Maps a path to a file's text or bytes, to `{ link }` for a symbolic link, or to null for an empty folder. */
export type Tree = Record<string, string | Uint8Array | { link: string } | null>;

/** A temporary folder that every user can enter. It is removed when it is disposed of. */
export class Site implements AsyncDisposable {
  private constructor(readonly root: string) {}

  static async lay(tree: Tree): Promise<Site> {
    // Resolve the path, because the temporary folder is a link on some systems.
    const site = new Site(await Deno.realPath(await Deno.makeTempDir({ prefix: "http-server-test-" })));
    if (!isWindows) await Deno.chmod(site.root, 0o755);
    site.write(tree);
    return site;
  }

  file(name: string): string {
    return join(this.root, name);
  }

  /**
   * Writes a tree synchronously, so that nothing else in this process runs in between. Writes the links last, when their
   * targets exist, and leaves them out on a machine without links.
   */
  write(tree: Tree): void {
    const links: [target: string, file: string][] = [];
    for (const [name, content] of Object.entries(tree)) {
      const file = this.file(name);
      Deno.mkdirSync(content === null ? file : dirname(file), { recursive: true });
      if (typeof content === "string") Deno.writeTextFileSync(file, content);
      else if (content instanceof Uint8Array) Deno.writeFileSync(file, content);
      else if (content !== null) links.push([content.link, file]);
    }
    if (HAS_LINKS) { for (const [target, file] of links) link(target, file); }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await removeFolder(this.root);
  }
}

export interface Finished {
  code: number;
  /** Standard output after the start-up message. */
  stdout: string;
  stderr: string;
}

interface StartOptions {
  permissions?: string[];
  cwd?: string;
  /** Limits that the server reaches sooner. */
  limits?: Partial<typeof LIMITS>;
  /** The program; `server.ts` by default. */
  program?: string;
  /** A `bash` command that starts the server; `$SERVER` in it is the server's own command line. */
  shell?: string;
}

/**
 * A server in its own process. Its address is read from the first line of its start-up message, which ends with an empty
 * line; lines of Deno before it, which a terminal shows as well, are ignored.
 */
export class Served implements AsyncDisposable {
  url = "";
  port = 0;
  /** The start-up message. */
  startUp = "";
  /** Standard output so far, after the start-up message. */
  log = "";
  stderr = "";
  #child: Deno.ChildProcess;
  #stdin: WritableStreamDefaultWriter<Uint8Array> | undefined;
  #stdout: ReadableStreamDefaultReader<string>;
  #read: Promise<unknown>;
  #paused: Promise<void> | undefined;

  private constructor(child: Deno.ChildProcess, onStartUp: () => void) {
    this.#child = child;
    this.#stdin = isWindows ? child.stdin.getWriter() : undefined;
    this.#stdout = child.stdout.pipeThrough(new TextDecoderStream()).getReader();
    this.#read = Promise.all([this.#readStdout(onStartUp), this.#readStderr()]).finally(onStartUp);
  }

  static async start(args: string[], options: StartOptions = {}): Promise<Served> {
    const { permissions = PERMISSIONS, cwd = Deno.cwd(), limits, program = script, shell } = options;
    const words = limits === undefined
      ? [program]
      : [join(here, ".ci/limited.ts"), encodeURIComponent(JSON.stringify(limits))];
    const preload = isWindows ? [`--preload=${join(here, ".ci/signals.ts")}`] : [];
    const command = ["run", "--quiet", "--no-prompt", ...preload, ...permissions, ...words, ...args];
    const quoted = [Deno.execPath(), ...command].map((word) => `'${word.replaceAll("'", "'\\''")}'`).join(" ");
    const child = new Deno.Command(shell === undefined ? Deno.execPath() : "bash", {
      args: shell === undefined ? command : ["-c", shell.replaceAll("$SERVER", quoted)],
      stdin: isWindows ? "piped" : "null",
      stdout: "piped",
      stderr: "piped",
      cwd,
    }).spawn();
    const started = Promise.withResolvers<void>();
    const served = new Served(child, started.resolve);
    await within(started.promise, `the start-up message of ${args.join(" ")}`, () => served.signal("SIGKILL"));
    if (served.startUp === "") throw new Error(`the server did not start: ${served.stderr}`);
    [served.url = ""] = /https?:\/\/\S+/.exec(served.startUp) ?? [];
    served.port = Number(new URL(served.url).port);
    return served;
  }

  async #readStdout(onStartUp: () => void): Promise<void> {
    for (let chunk; !(chunk = await this.#stdout.read()).done;) {
      await this.#paused;
      this.log += chunk.value;
      if (this.startUp !== "") continue;
      const [start, startUp] = /^(?:[^\n]*\n)*?((?:Local|Network) [^]*?\n)\r?\n/.exec(this.log) ?? [];
      if (start === undefined) continue;
      this.startUp = startUp!;
      this.log = this.log.slice(start.length);
      onStartUp();
    }
  }

  async #readStderr(): Promise<void> {
    for await (const text of this.#child.stderr.pipeThrough(new TextDecoderStream())) this.stderr += text;
  }

  /** Stops reading standard output until the returned function is called. */
  pauseOutput(): () => void {
    const { promise, resolve } = Promise.withResolvers<void>();
    this.#paused = promise;
    return resolve;
  }

  /** Closes standard output, like a log reader that exits. */
  closeOutput(): Promise<void> {
    return this.#stdout.cancel();
  }

  /** Sends a signal, unless the server has exited. On Windows, every signal but SIGKILL is a Ctrl-C. */
  signal(signal: Deno.Signal): void {
    if (this.#stdin !== undefined && signal !== "SIGKILL") {
      this.#stdin.write(new Uint8Array(1)).catch(() => {});
      return;
    }
    try {
      this.#child.kill(signal);
    } catch (error) {
      if (!(error instanceof TypeError)) throw error;
    }
  }

  get pid(): number {
    return this.#child.pid;
  }

  get status(): Promise<Deno.CommandStatus> {
    return this.#child.status;
  }

  async finish(): Promise<Finished> {
    const { code } = await within(this.#child.status, `the exit of the server for ${this.url}`);
    await this.#stdin?.close().catch(() => {});
    await within(this.#read, `the end of the output of the server for ${this.url}`);
    return { code, stdout: this.log, stderr: this.stderr };
  }

  /** Stops the server as Ctrl-C does and returns its exit code. */
  async stop(): Promise<number> {
    this.signal("SIGINT");
    return (await this.finish()).code;
  }

  /** Waits until the server refuses new connections. */
  async isClosed(): Promise<void> {
    const refusesConnections = async () => {
      try {
        (await Deno.connect({ hostname: "127.0.0.1", port: this.port })).close();
        return false;
      } catch {
        return true;
      }
    };
    await until(refusesConnections, `the server at port ${this.port} to refuse connections`);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.signal("SIGKILL");
    // Thrown here, an error would hide the one that ended the test.
    await this.finish().catch((error: Error) => console.error(error.message));
  }
}

export async function chmod(file: string, mode: number): Promise<void> {
  if (!isWindows) await Deno.chmod(file, mode);
}

/** Whether root can drop its rights temporarily; Deno 2.5 can't. */
export const CAN_DROP_RIGHTS: boolean = process.seteuid !== undefined;

/** Runs a function as an unprivileged user, because root can read every file. */
export async function withoutRights<T>(fn: () => Promise<T>): Promise<T> {
  if (isWindows || Deno.uid() !== 0 || !CAN_DROP_RIGHTS) return await fn();
  process.seteuid!(65534);
  try {
    return await fn();
  } finally {
    process.seteuid!(0);
  }
}

export interface Answer {
  status: number;
  headers: Headers;
  text: string;
}

/** A client that sends raw bytes and reads the responses from one connection, one after the other. */
export class RawClient implements Disposable {
  #connection: Deno.Conn;
  #chunk = new Uint8Array(65536);
  #buffer = new Uint8Array();

  private constructor(connection: Deno.Conn) {
    this.#connection = connection;
  }

  static async connect(port: number, hostname = "127.0.0.1"): Promise<RawClient> {
    return new RawClient(await within(Deno.connect({ hostname, port }), `a connection to ${hostname}:${port}`));
  }

  async send(text: string | Uint8Array): Promise<void> {
    const bytes = typeof text === "string" ? new TextEncoder().encode(text) : text;
    for (let sent = 0; sent < bytes.length;) sent += await this.#connection.write(bytes.subarray(sent));
  }

  /** Returns the next response, or undefined if the server closed the connection. */
  async receive(method = "GET"): Promise<Answer & { bytes: Uint8Array<ArrayBuffer> } | undefined> {
    let end;
    while ((end = indexOf(this.#buffer, "\r\n\r\n")) < 0) if (!await this.#read()) return undefined;
    const [statusLine, ...lines] = new TextDecoder().decode(this.#buffer.subarray(0, end)).split("\r\n");
    this.#buffer = this.#buffer.subarray(end + 4);
    const status = Number(/ (\d{3}) /.exec(statusLine!)?.[1]);
    const headers = new Headers();
    for (const line of lines) headers.append(line.slice(0, line.indexOf(":")), line.slice(line.indexOf(":") + 1));
    const hasBody = method !== "HEAD" && status !== 204 && status !== 304;
    // Deno's own 400 responses have no Content-Length and close the connection.
    if (hasBody && status !== 400 && !headers.has("content-length")) throw new Error("no Content-Length");
    const length = hasBody ? Number(headers.get("content-length") ?? 0) : 0;
    while (this.#buffer.length < length) if (!await this.#read()) return undefined;
    const bytes = this.#buffer.slice(0, length);
    this.#buffer = this.#buffer.subarray(length);
    return { status, headers, text: new TextDecoder().decode(bytes), bytes };
  }

  async #read(): Promise<boolean> {
    const length = await this.#connection.read(this.#chunk).catch(() => null);
    if (length === null) return false;
    const joined = new Uint8Array(this.#buffer.length + length);
    joined.set(this.#buffer);
    joined.set(this.#chunk.subarray(0, length), this.#buffer.length);
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

/** Returns how many files of a folder a process has open (Linux), or any process (Windows). */
export function openFiles(root: string, process: number | "self" = "self"): number {
  if (isWindows) return busyFiles(root);
  let count = 0;
  for (const { name } of Deno.readDirSync(`/proc/${process}/fd`)) {
    try {
      if (Deno.readLinkSync(`/proc/${process}/fd/${name}`).startsWith(root)) count++;
    } catch {
      // The file was closed after the folder was read.
    }
  }
  return count;
}

/** Returns how many files in a folder can't be opened exclusively, because they are open already (Windows). */
function busyFiles(folder: string): number {
  const kernel = Deno.dlopen("kernel32.dll", {
    CreateFileW: { parameters: ["buffer", "u32", "u32", "usize", "u32", "u32", "usize"], result: "isize" },
    CloseHandle: { parameters: ["isize"], result: "i32" },
  });
  const [GENERIC_READ, NOT_SHARED, OPEN_EXISTING, INVALID_HANDLE] = [0x80000000, 0, 3, -1n];
  const isBusy = (file: string) => {
    const name = Uint16Array.from(`${file}\0`, (character) => character.charCodeAt(0));
    const handle = kernel.symbols.CreateFileW(name, GENERIC_READ, NOT_SHARED, 0n, OPEN_EXISTING, 0, 0n);
    if (handle !== INVALID_HANDLE) kernel.symbols.CloseHandle(handle);
    return handle === INVALID_HANDLE;
  };
  const count = (folder: string): number =>
    [...Deno.readDirSync(folder)].reduce((sum, { name, isDirectory }) => {
      const path = join(folder, name);
      return sum + (isDirectory ? count(path) : Number(isBusy(path)));
    }, 0);
  try {
    return count(folder);
  } finally {
    kernel.close();
  }
}
