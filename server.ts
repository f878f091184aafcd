/**
 * http-server: serves a folder over HTTP.
 *
 *     deno run --allow-net --allow-read server.ts
 *     deno compile --allow-net --allow-read --include www --output http-server server.ts
 *
 * The way of a request, in the order of this file:
 *
 * 1. Path: `parseTarget` decodes and tidies it; `isHidden` keeps dotfiles out of sight.
 * 2. Method: GET and HEAD; `answerOptions` for OPTIONS; 405 for the rest.
 * 3. Containment: `locate` finds the file or folder, inside the root and nowhere else.
 * 4. Conditions: `evaluatePreconditions` and `parseRange` read the conditional and range fields.
 * 5. Delivery: `deliver` lets @std/http's `serveDir` send the file, the range or the listing.
 * 6. Fallback: `fallback` tries the clean URL, the single-page app and the nearest `404.html`.
 * 7. Fields and log: `handle` finishes every answer in one place.
 *
 * `createHandler` holds 1 to 7, `main` the command line and start-up. It never writes, runs a program, reads the
 * environment or follows a link out of the folder, and it has no uploads, themes or server-side scripts.
 *
 * @module
 */

// Inline, where deno.json has the same: this file also runs alone, copied elsewhere or straight from a URL.
// deno-lint-ignore-file no-import-prefix -- see the line above
import { eTag, ifNoneMatch } from "jsr:@std/http@^1.1/etag";
import { serveDir } from "jsr:@std/http@^1.1/file-server";
import { STATUS_TEXT, type StatusCode } from "jsr:@std/http@^1.1/status";
import { extname, join, resolve, SEPARATOR } from "jsr:@std/path@^1.1";
import { normalize } from "jsr:@std/path@^1.1/posix";
import { parseArgs } from "node:util";

/** The version of http-server; the same as in deno.json. */
export const VERSION = "1.0.0";

/** What {@linkcode createHandler} serves, and how. */
export interface Options {
  /**
   * The folder to serve.
   *
   * @default {"the `www` folder beside this file; `./www` when the file was loaded over the network"}
   */
  root: string;
  /** Whether a folder without an `index.html` is answered with a list of what it holds. @default {true} */
  listing: boolean;
  /** Whether files and folders whose names begin with a dot are served. `/.well-known/` always is. @default {false} */
  dotfiles: boolean;
  /** Whether symbolic links that lead out of the root are followed. Links inside it always are. @default {false} */
  symlinks: boolean;
  /** Whether a path without an extension that exists nowhere gets the root's `index.html`. @default {false} */
  spa: boolean;
  /** Whether every answer allows every origin to read it (Fetch standard, CORS protocol). @default {false} */
  cors: boolean;
  /** Fields for every answer, as name and value; each replaces what the answer had of that name. @default {[]} */
  headers: [name: string, value: string][];
  /** For how many seconds a client may reuse an answer without asking; 0 means ask every time. @default {0} */
  maxAge: number;
  /** Takes one line for each request, without its line break; undefined for no log. @default {undefined} */
  log?: (line: string) => void;
}

/** The value of every option that is not given. */
export const DEFAULTS: Readonly<Options> = {
  root: import.meta.dirname === undefined ? "www" : join(import.meta.dirname, "www"),
  listing: true,
  dotfiles: false,
  symlinks: false,
  spa: false,
  cors: false,
  headers: [],
  maxAge: 0,
};

/** Answers one request; what {@linkcode Deno.serve} takes. It never throws and never rejects. */
export type Handler = (request: Request, info?: Deno.ServeHandlerInfo) => Promise<Response>;

/** A regular file or a folder that may be served. */
interface Entry {
  /** Where the URL space has it: decoded, tidied, without a slash at the end (but `/` for the root). */
  path: string;
  /** Where the disk has it. */
  file: string;
  info: Deno.FileInfo;
}

const ALLOW = "GET, HEAD, OPTIONS";
const NO_CACHE = "no-cache"; // "ask before you use it again", not "don't keep it"
const INDEX = "index.html";
const NOT_FOUND_PAGE = "404.html";

/** For how many seconds a browser may remember a preflight; browsers cap it at a day or less. */
const PREFLIGHT_MAX_AGE = "86400";

/**
 * Returns the handler that serves `options.root`.
 *
 * @throws {Deno.errors.NotFound} If the root does not exist.
 */
export function createHandler(options: Partial<Options> = {}): Handler {
  const {
    listing = DEFAULTS.listing,
    dotfiles = DEFAULTS.dotfiles,
    symlinks = DEFAULTS.symlinks,
    spa = DEFAULTS.spa,
    cors = DEFAULTS.cors,
    headers = DEFAULTS.headers,
    maxAge = DEFAULTS.maxAge,
    log,
  } = options;
  const root = resolve(options.root ?? DEFAULTS.root);
  const realRoot = Deno.realPathSync(root);
  const cacheControl = maxAge > 0 ? `max-age=${maxAge}` : NO_CACHE;

  return handle;

  /** The only place that catches, that adds the fields of every answer, and that logs. */
  async function handle(request: Request, info?: Deno.ServeHandlerInfo): Promise<Response> {
    const start = performance.now();
    let response: Response;
    try {
      response = await respond(request);
    } catch (error) {
      response = fail(statusOf(error));
      if (response.status >= 500) console.error(`${request.method} ${toAscii(request.url)}:`, error);
    }
    finishFields(response);
    log?.(logLine(request, response, performance.now() - start, info));
    return response;
  }

  async function respond(request: Request): Promise<Response> {
    const target = parseTarget(request);
    if (target === undefined) return fail(400);
    const { path, query } = target;

    if (request.method === "OPTIONS") return answerOptions(request);
    if (request.method !== "GET" && request.method !== "HEAD") return fail(405, { allow: ALLOW });

    // The same answer whether a hidden thing exists or not.
    if (!dotfiles && isHidden(path)) return notFound(request, path);
    const entry = await locate(path);
    if (entry === undefined) return fallback(request, path);

    // A page's relative links count from its URL: a folder's ends with a slash, a file's doesn't.
    const isFolderPath = path.endsWith("/");
    if (entry.info.isDirectory !== isFolderPath) return redirect(isFolderPath ? entry.path : `${path}/`, query);

    if (entry.info.isFile) return sendFile(request, entry);
    const index = await locate(path + INDEX);
    if (index?.info.isFile) return sendFile(request, index);
    return listing ? deliver(request, entry) : notFound(request, path);
  }

  // 2. Method -------------------------------------------------------------------------------------------------------

  /** Answers OPTIONS, a CORS preflight included (RFC 9110, 9.3.7; Fetch standard, 3.3). */
  function answerOptions(request: Request): Response {
    const response = new Response(null, { status: 204, headers: { allow: ALLOW } });
    if (cors && request.headers.has("access-control-request-method")) {
      response.headers.set("access-control-allow-methods", ALLOW);
      // Named one by one: `*` would leave out Authorization.
      const requested = request.headers.get("access-control-request-headers") ?? "*";
      response.headers.set("access-control-allow-headers", requested);
      response.headers.set("access-control-max-age", PREFLIGHT_MAX_AGE);
    }
    return response;
  }

  // 3. Containment --------------------------------------------------------------------------------------------------

  /** Returns what lies at a path, unless that is outside the root or neither a regular file nor a folder. */
  async function locate(path: string): Promise<Entry | undefined> {
    const trimmed = path.length > 1 && path.endsWith("/") ? path.slice(0, -1) : path;
    const file = join(root, trimmed);
    try {
      // Of the whole path, for a link anywhere in it may lead out.
      if (!symlinks && !isInside(realRoot, await Deno.realPath(file))) return undefined;
      const info = await Deno.stat(file);
      // To open a FIFO waits for its writer, and a device may never end.
      return info.isFile || info.isDirectory ? { path: trimmed, file, info } : undefined;
    } catch (error) {
      if (statusOf(error) === 404) return undefined;
      throw error;
    }
  }

  // 4. Conditions and ranges ----------------------------------------------------------------------------------------

  /** Answers with a file, whole or a range of it, or with 304, 412 or 416 where the request's fields ask for that. */
  async function sendFile(request: Request, entry: Entry): Promise<Response> {
    const { size, mtime } = entry.info;
    const validators = await validatorsOf(entry.info);
    const status = evaluatePreconditions(request.headers, validators);
    if (status === 412) return fail(412);
    if (status === 304) {
      await readStart(entry); // 403 where it can't be read any more, to a client that holds a copy too
      return new Response(null, { status, headers: validators });
    }

    const range = request.method === "GET" && isRangeCurrent(request.headers, mtime)
      ? parseRange(request.headers.get("range"), size)
      : undefined;
    if (range === "unsatisfiable") return fail(416, { "content-range": `bytes */${size}` });

    const response = await deliver(request, entry, range);
    for (const [name, value] of Object.entries(validators)) response.headers.set(name, value);
    return response;
  }

  // 5. Delivery -----------------------------------------------------------------------------------------------------

  /** Lets `serveDir` send a file, a range of it, or a folder's listing. */
  async function deliver(request: Request, entry: Entry, range?: ByteRange): Promise<Response> {
    const { path, info } = entry;
    const start = await readStart(entry); // throws what `serveDir` would answer 500 to
    const url = `http://localhost${encodePath(info.isFile || path === "/" ? path : `${path}/`)}`;
    const fields: HeadersInit = range ? { range: `bytes=${range.start}-${range.end}` } : {};
    const response = await serveDir(new Request(url, { method: request.method, headers: fields }), {
      fsRoot: root,
      showIndex: false, // `respond` has looked for it, behind links too
      showDirListing: true, // `respond` has asked whether it may
      showDotfiles: dotfiles || path.includes("/."), // `respond` has let this one pass
      quiet: true,
    });
    if (response.status >= 500) throw new Error("serveDir answered 500");
    if (!response.ok) return fail(response.status); // it went away since `locate` looked

    response.headers.delete("server");
    if (info.isDirectory) response.headers.delete("accept-ranges"); // listings have none
    else response.headers.set("content-type", contentType(path, response.headers.get("content-type"), start));
    return response;
  }

  // 6. Fallback -----------------------------------------------------------------------------------------------------

  /** Answers where nothing lies at the path: the page of a clean URL, the single-page app, or 404. */
  async function fallback(request: Request, path: string): Promise<Response> {
    const page = path.endsWith("/") ? undefined : await locate(`${path}.html`);
    if (page?.info.isFile) return sendFile(request, page);
    const app = spa && extname(path) === "" ? await locate(`/${INDEX}`) : undefined;
    if (app?.info.isFile) return sendFile(request, app);
    return notFound(request, path);
  }

  /** Answers 404 with the `404.html` nearest to the path on the way up to the root, or with a plain line. */
  async function notFound(request: Request, path: string): Promise<Response> {
    let page: Entry | undefined;
    // From the root down, as far as there are folders: a path of 30,000 segments costs one look, not 30,000.
    for (let folder = "/"; (await locate(folder))?.info.isDirectory;) {
      const candidate = await locate(folder + NOT_FOUND_PAGE);
      if (candidate?.info.isFile) page = candidate;
      folder = path.slice(0, path.indexOf("/", folder.length) + 1);
      if (folder === "" || !dotfiles && isHidden(folder)) break;
    }
    if (page === undefined) return fail(404);
    const { body, headers } = await deliver(request, page);
    for (const name of ["accept-ranges", "last-modified", "etag"]) headers.delete(name); // they are the page's own
    return new Response(body, { status: 404, headers });
  }

  // 7. Fields and log -----------------------------------------------------------------------------------------------

  /** Adds what every answer carries; the user's own fields come last and win. */
  function finishFields(response: Response): void {
    response.headers.set("x-content-type-options", "nosniff");
    response.headers.set("cache-control", response.status < 400 ? cacheControl : NO_CACHE);
    if (cors) {
      response.headers.set("access-control-allow-origin", "*");
      response.headers.set("access-control-expose-headers", "*");
    }
    for (const [name] of headers) response.headers.delete(name);
    for (const [name, value] of headers) response.headers.append(name, value);
  }
}

// 1. Path -----------------------------------------------------------------------------------------------------------

/** Scheme, authority, path and query of a request's URL; Deno joins the first three without looking at them. */
const URL_PARTS = /^[^:/?#]+:\/\/[^/?#]*([^?#]*)(\?[^#]*)?/;

/** `uri-host [ ":" port ]` (RFC 9110, 7.2; RFC 3986, 3.2.2). */
const HOST = /^(?:\[[\da-f:.%]+\]|[\w.~!$&'()*+,;=%-]*)(?::\d*)?$/i;

/** Returns the tidied path and the raw query of a request, or undefined where the target or the Host is malformed. */
function parseTarget(request: Request): { path: string; query: string } | undefined {
  // A Host with a slash in it would become part of the path.
  const host = request.headers.get("host");
  if (host !== null && !HOST.test(host)) return undefined;
  const [, rawPath = "", query = ""] = URL_PARTS.exec(request.url) ?? [];
  const path = resolvePath(rawPath);
  return path === undefined ? undefined : { path, query };
}

/**
 * Returns the path of a request target as the disk has it: percent-decoded once, `.`, `..` and doubled slashes resolved,
 * with one slash at its beginning and never outside the root. Undefined for a malformed escape, for bytes that are not
 * UTF-8, for NUL, and for a backslash, which is a separator on Windows.
 */
export function resolvePath(rawPath: string): string | undefined {
  let path;
  try {
    path = decodeURIComponent(rawPath);
  } catch {
    return undefined;
  }
  return /[\0\\]/.test(path) ? undefined : normalize(`/${path}`);
}

/** Whether a path leads to or through a dotfile; `/.well-known/` is for the public to see (RFC 8615). */
export function isHidden(path: string): boolean {
  return path.replace(/^\/\.well-known(?=\/|$)/, "").includes("/.");
}

/** Returns a path as it stands in a URL. */
function encodePath(path: string): string {
  return path.split("/").map(encodeURIComponent).join("/");
}

/** Returns a permanent redirect that names no host, so that nothing the client sent can become one. */
function redirect(path: string, query: string): Response {
  return new Response(null, { status: 301, headers: { location: encodePath(path) + toAscii(query) } });
}

// 3. Containment ----------------------------------------------------------------------------------------------------

/** Whether a real path is the folder or lies in it; with the separator, or `/www-private` would lie in `/www`. */
function isInside(folder: string, path: string): boolean {
  return path === folder || path.startsWith(folder.endsWith(SEPARATOR) ? folder : folder + SEPARATOR);
}

// 4. Conditions and ranges ------------------------------------------------------------------------------------------

/** `etag` and `last-modified`, the fields that tell one version of a file from another; none where the disk has no time. */
type Validators = Record<string, string>;

/**
 * Returns `ETag` and `Last-Modified` of a file (RFC 9110, 8.8). The tag changes with the file's size, times or inode,
 * so it also does where a file of the same size and age takes the place of another. It is weak, for no byte was read.
 */
async function validatorsOf({ size, mtime, ctime, ino }: Deno.FileInfo): Promise<Validators> {
  if (mtime === null) return {};
  const version = [size, mtime.getTime(), ctime?.getTime(), ino].join(" ");
  return { etag: await eTag(version, { weak: true }), "last-modified": mtime.toUTCString() };
}

/** An HTTP-date in any of its three forms (RFC 9110, 5.6.7); what `Date.parse` takes beyond them is no date here. */
const HTTP_DATE =
  /^[A-Z][a-z]{2,8}(?:, \d\d[ -][A-Z][a-z]{2}[ -](?:\d\d){1,2} \d\d:\d\d:\d\d GMT| [A-Z][a-z]{2} [ \d]\d \d\d:\d\d:\d\d \d{4})$/;

/** Returns the time of an HTTP-date in milliseconds, or NaN, which compares false with every time. */
function parseDate(value: string | null): number {
  if (value === null || !HTTP_DATE.test(value)) return NaN;
  return Date.parse(value.endsWith("GMT") ? value : `${value} GMT`);
}

/** Returns the status that a request's conditional fields lead to, in the order of RFC 9110, 13.2.2. */
export function evaluatePreconditions(request: Headers, validators: Validators): 200 | 304 | 412 {
  const modified = parseDate(validators["last-modified"] ?? null);
  const ifMatch = request.get("if-match");
  if (ifMatch !== null) {
    // Compared strongly, which a weak tag never passes (13.1.1).
    if (ifMatch !== "*") return 412;
  } else if (modified > parseDate(request.get("if-unmodified-since"))) {
    return 412;
  }
  const tags = request.get("if-none-match");
  if (tags !== null) return ifNoneMatch(tags, validators.etag) ? 200 : 304;
  return modified <= parseDate(request.get("if-modified-since")) ? 304 : 200;
}

/** Whether `If-Range` lets a range through: only the file's own date does, a weak tag never (RFC 9110, 13.1.5). */
function isRangeCurrent(request: Headers, mtime: Date | null): boolean {
  const ifRange = request.get("if-range");
  return ifRange === null || mtime !== null && parseDate(ifRange) === parseDate(mtime.toUTCString());
}

/** The first and the last byte of a range, counted from 0. */
export interface ByteRange {
  start: number;
  end: number;
}

/**
 * Returns what a `Range` field asks of a file of `size` bytes (RFC 9110, 14.1.2): one range, "unsatisfiable" where it
 * begins past the end, or undefined where the whole file is the answer: no field, another unit, several ranges, nonsense,
 * and an empty file, of which there is no part.
 */
export function parseRange(field: string | null, size: number): ByteRange | "unsatisfiable" | undefined {
  const [, first, last] = /^bytes=(\d*)-(\d*)$/i.exec(field ?? "") ?? [];
  if (!first && !last || size === 0) return undefined;
  if (first && last && Number(first) > Number(last)) return undefined;
  const start = first ? Number(first) : Math.max(0, size - Number(last));
  const end = first && last ? Math.min(Number(last), size - 1) : size - 1;
  return start > end ? "unsatisfiable" : { start, end };
}

// 5. Delivery -------------------------------------------------------------------------------------------------------

/** How much of a file without a known extension is looked at, in bytes. */
const SNIFFED_LENGTH = 1024;

/** Returns the first bytes of a file, none of a folder; throws where it can't be read. */
async function readStart({ file, info }: Pick<Entry, "file" | "info">): Promise<Uint8Array> {
  if (info.isDirectory) {
    for await (const _ of Deno.readDir(file)) break; // leaving the loop closes the folder
    return new Uint8Array();
  }
  using handle = await Deno.open(file);
  const start = new Uint8Array(SNIFFED_LENGTH);
  return start.subarray(0, await handle.read(start) ?? 0);
}

/** Extensions whose registered types are something else's, or no help to a developer: TypeScript is not a film. */
const SOURCE_CODE = [".ts", ".tsx", ".mts", ".cts"];

/** Returns the type of a file: what is `known` of its extension, or what its first bytes look like. */
function contentType(path: string, known: string | null, start: Uint8Array): string {
  if (known !== null && !SOURCE_CODE.includes(extname(path).toLowerCase())) return known;
  return isText(start) ? "text/plain; charset=UTF-8" : "application/octet-stream";
}

/** Whether bytes are the start of a UTF-8 text: no control characters but white space and escape sequences. */
function isText(start: Uint8Array): boolean {
  try {
    const text = new TextDecoder("utf-8", { fatal: true }).decode(start, { stream: true });
    // deno-lint-ignore no-control-regex -- control characters are what it looks for
    return !/[\0-\x08\x0e-\x1a\x1c-\x1f\x7f]/.test(text);
  } catch {
    return false;
  }
}

// 7. Fields and log -------------------------------------------------------------------------------------------------

/** The status of what the file system says, by the error's name or code; nothing else of it reaches the client. */
const ERROR_STATUS: Record<string, StatusCode> = {
  NotFound: 404,
  NotADirectory: 404, // a path through a file
  FilesystemLoop: 404, // links in a circle
  ENAMETOOLONG: 404,
  PermissionDenied: 403,
  NotCapable: 403, // the sandbox forbids it
  EMFILE: 503, // too many open files
  ENFILE: 503,
};

function statusOf(error: unknown): StatusCode {
  const { name = "", code = "" } = error as { name?: string; code?: string };
  return ERROR_STATUS[name] ?? ERROR_STATUS[code] ?? 500;
}

/** Returns an answer that says its status in one plain line. */
function fail(status: number, fields: Record<string, string> = {}): Response {
  const text = `${status} ${STATUS_TEXT[status as StatusCode]}\n`;
  return new Response(text, {
    status,
    headers: { "content-type": "text/plain; charset=UTF-8", "content-length": `${text.length}`, ...fields },
  });
}

/** Returns a line of the log: time, client address, method, target, status, bytes of the body, milliseconds. */
function logLine(request: Request, response: Response, duration: number, info?: Deno.ServeHandlerInfo): string {
  const address = info?.remoteAddr as Deno.NetAddr | undefined;
  const target = request.url.slice(request.url.indexOf("/", request.url.indexOf("://") + 3));
  const length = response.headers.get("content-length") ?? "-";
  return `${new Date().toISOString()} ${address?.hostname ?? "-"} ${toAscii(request.method)} ${toAscii(target)} ` +
    `${response.status} ${length} ${duration.toFixed(1)}ms`;
}

/** Returns a text with all but the visible ASCII percent-encoded: nothing in it can break a line or a field. */
function toAscii(text: string): string {
  return text.toWellFormed().replace(/[^\x21-\x7e]/gu, encodeURIComponent);
}

// Command line ------------------------------------------------------------------------------------------------------

/** The port when none is named; where it is taken, one of the next {@linkcode PORT_TRIES} is. */
const DEFAULT_PORT = 8080;
const PORT_TRIES = 100;

/** Fields that frame a message or its connection: the server alone knows them. */
const FRAMING_FIELDS = ["connection", "content-length", "keep-alive", "te", "trailer", "transfer-encoding", "upgrade"];

/** Every option of the command line: what `parseArgs` needs, and what `--help` says. */
const FLAGS = {
  port: {
    type: "string",
    short: "p",
    value: "N",
    help: "listen on port N; 0 for any [default: 8080, or the next free]",
  },
  host: { type: "string", short: "a", value: "ADDRESS", help: "listen on ADDRESS [default: 0.0.0.0, every interface]" },
  "no-listing": { type: "boolean", help: "answer 404 to a folder without an index.html" },
  dotfiles: { type: "boolean", help: "serve files and folders whose names begin with a dot" },
  symlinks: { type: "boolean", help: "follow symbolic links that lead out of the folder" },
  spa: { type: "boolean", help: "single-page app: answer index.html to a path that exists nowhere" },
  cors: { type: "boolean", help: "let pages of every origin read the answers" },
  header: { type: "string", multiple: true, value: '"NAME: VALUE"', help: "set a field on every answer; repeatable" },
  "max-age": {
    type: "string",
    value: "SECONDS",
    help: "let browsers keep an answer that long [default: ask each time]",
  },
  cert: { type: "string", value: "FILE", help: "HTTPS and HTTP/2, with this certificate (PEM), and" },
  key: { type: "string", value: "FILE", help: "its private key (PEM)" },
  quiet: { type: "boolean", short: "q", help: "do not log requests" },
  help: { type: "boolean", short: "h", help: "print this text" },
  version: { type: "boolean", short: "V", help: "print the version" },
} as const satisfies Record<string, Flag>;

interface Flag {
  type: "string" | "boolean";
  short?: string;
  multiple?: boolean;
  value?: string;
  help: string;
}

/** What {@linkcode main} tells a person in one sentence: exit code 2 for the command line, 1 for the machine. */
class CommandError extends Error {
  constructor(readonly exitCode: 1 | 2, message: string) {
    super(message);
  }
}

/** Returns the text of `--help`. */
export function helpText(): string {
  const rows = Object.entries<Flag>(FLAGS).map(([name, { short, value, help }]) => {
    const flag = `${short ? `-${short},` : "   "} --${name}${value ? ` ${value}` : ""}`;
    return `  ${flag.padEnd(28)} ${help}`;
  });
  return `http-server ${VERSION}: serves a folder over HTTP

Usage: server.ts [options] [folder]

  [folder]                     the folder to serve [default: the www folder beside the script]

${rows.join("\n")}`;
}

/** What the command line asks for. */
interface Command {
  options: Partial<Options>;
  host: string;
  /** Undefined where the user named none. */
  port?: number;
  tls?: { cert: string; key: string };
  quiet: boolean;
  /** The text that the command line asks for instead of a server. */
  print?: string;
}

/** Reads the command line; throws a {@linkcode CommandError} that says what is wrong with it. */
function parseCommand(args: string[]): Command {
  const { values, positionals } = parseFlags(args);
  const [root, ...more] = positionals;
  if (more.length > 0) {
    throw new CommandError(2, `one folder is served, not ${positionals.length}: ${positionals.join(", ")}.`);
  }
  if (root === "") throw new CommandError(2, "the folder's name is empty.");
  if (values.host === "") throw new CommandError(2, "--host takes an address to listen on, such as 127.0.0.1.");
  if (!values.cert !== !values.key || values.cert === "") {
    throw new CommandError(2, "--cert and --key take a file each, and HTTPS needs both.");
  }
  return {
    options: {
      ...root === undefined ? {} : { root },
      listing: !values["no-listing"],
      dotfiles: values.dotfiles,
      symlinks: values.symlinks,
      spa: values.spa,
      cors: values.cors,
      headers: values.header?.map(parseHeader),
      maxAge: parseNumber("--max-age", values["max-age"], 2 ** 31),
    },
    host: (values.host ?? "0.0.0.0").replace(/^\[(.*)\]$/, "$1"), // an IPv6 address as a URL has it
    port: parseNumber("--port", values.port, 65535),
    ...values.cert && values.key ? { tls: { cert: values.cert, key: values.key } } : {},
    quiet: values.quiet ?? false,
    print: values.help ? helpText() : values.version ? `http-server ${VERSION}` : undefined,
  };
}

function parseFlags(args: string[]) {
  try {
    return parseArgs({ args, options: FLAGS, allowPositionals: true });
  } catch (error) {
    // Its first sentence says what is wrong; the others are about a syntax that nothing here needs.
    const [sentence = ""] = (error as Error).message.split(/\.\s|\n/);
    const complaint = sentence.replace(/^O|^U/, (letter) => letter.toLowerCase()).replace("is ambiguous", "is missing");
    throw new CommandError(2, `${complaint}; --help lists the options.`);
  }
}

function parseNumber(flag: string, value: string | undefined, most: number): number | undefined {
  if (value === undefined) return undefined;
  if (!/^\d{1,10}$/.test(value) || Number(value) > most) {
    throw new CommandError(2, `${flag} takes a whole number from 0 to ${most}, not "${value}".`);
  }
  return Number(value);
}

function parseHeader(field: string): [name: string, value: string] {
  // Trimmed before `Headers` looks: behind leading white space it lets line breaks through.
  const [, name = "", value = ""] = /^([^:]*):\s*(.*?)\s*$/s.exec(field) ?? [];
  try {
    new Headers([[name, value]]);
  } catch {
    throw new CommandError(2, `--header takes "Name: value", not ${JSON.stringify(field)}.`);
  }
  if (FRAMING_FIELDS.includes(name.toLowerCase())) {
    throw new CommandError(2, `--header can't set ${name}: the server alone knows what is right there.`);
  }
  return [name, value];
}

// Start and stop ----------------------------------------------------------------------------------------------------

/**
 * Runs http-server as its command line says, until a signal stops it, and returns its exit code: 0 after a clean stop or
 * a printed text, 1 when the machine refuses (port, folder, certificate, permission), 2 when the command line is wrong,
 * 130 when a second signal cuts it short. What goes wrong is one sentence on stderr.
 */
export async function main(args: string[]): Promise<number> {
  try {
    const command = parseCommand(args);
    if (command.print === undefined) return await serve(command);
    console.log(command.print);
    return 0;
  } catch (error) {
    if (error instanceof CommandError) console.error(`http-server: ${error.message}`);
    else console.error(`http-server: ${reasonOf(error)}.`); // such as a full disk behind stdout
    return error instanceof CommandError ? error.exitCode : 1;
  }
}

/** `deno task` passes on a Ctrl-C that the terminal has sent already; within this time, in milliseconds, it is the same. */
const SAME_SIGNAL = 300;

async function serve(command: Command): Promise<number> {
  const root = resolve(command.options.root ?? DEFAULTS.root);
  await checkRoot(root);
  const log = command.quiet ? undefined : openLog();
  const server = listen(command, createHandler({ ...command.options, root, log: log?.write }));
  announce(command, root, server.addr);

  const cutShort = Promise.withResolvers<number>();
  let stopping: number | undefined;
  const onSignal = () => {
    if (stopping !== undefined) {
      if (performance.now() - stopping > SAME_SIGNAL) cutShort.resolve(130);
      return;
    }
    stopping = performance.now();
    if (Deno.stdout.isTerminal()) console.log("\nStopping when what is in flight is done; Ctrl-C again stops at once.");
    server.shutdown();
  };
  const signals: Deno.Signal[] = Deno.build.os === "windows" ? ["SIGINT"] : ["SIGINT", "SIGTERM"];
  for (const signal of signals) Deno.addSignalListener(signal, onSignal);
  const exitCode = await Promise.race([server.finished.then(() => 0), cutShort.promise]);
  for (const signal of signals) Deno.removeSignalListener(signal, onSignal);
  await log?.flush();
  return exitCode;
}

/** Asks what the sandbox allows before trying: a permission prompt would stop a server that nobody watches. */
function isAllowed(descriptor: Deno.PermissionDescriptor): boolean {
  return Deno.permissions.querySync(descriptor).state === "granted";
}

async function checkRoot(root: string): Promise<void> {
  requireRead(root);
  let info;
  try {
    info = await Deno.stat(root);
    if (info.isDirectory) await readStart({ file: root, info });
  } catch (error) {
    if (statusOf(error) !== 404) throw new CommandError(1, `the folder ${root} can't be read: ${reasonOf(error)}.`);
  }
  if (info === undefined) throw new CommandError(2, `there is no folder ${root}; name the folder to serve.`);
  if (!info.isDirectory) throw new CommandError(2, `${root} is a file; name the folder to serve.`);
}

function requireRead(path: string): void {
  if (isAllowed({ name: "read", path })) return;
  throw new CommandError(1, `it has no permission to read ${path}; run it with "deno run --allow-net --allow-read".`);
}

/** Starts to listen on the named port, or on the first free one from the default on. */
function listen({ host, port, tls }: Command, handler: Handler): Deno.HttpServer<Deno.NetAddr> {
  const certificate = tls === undefined ? {} : { cert: readPem("--cert", tls.cert), key: readPem("--key", tls.key) };
  const address = (port: number) => `${bracketed(host)}:${port}`;
  const isListenable = (port: number) => isAllowed({ name: "net", host: address(port) });

  const first = port ?? DEFAULT_PORT;
  const last = port ?? DEFAULT_PORT + PORT_TRIES;
  if (!isListenable(first)) {
    const flags = `--allow-net=${address(first)} --allow-read`;
    throw new CommandError(1, `it has no permission to listen on ${address(first)}; run it with "deno run ${flags}".`);
  }
  for (let port = first;; port++) {
    try {
      return Deno.serve({
        port,
        hostname: host,
        ...certificate,
        automaticCompression: false,
        onListen() {}, // `announce` says it
        onError(error) { // from a body already on its way, such as a file cut short meanwhile
          console.error("http-server: an answer broke off:", error);
          return fail(500);
        },
      }, handler);
    } catch (error) {
      const isTaken = error instanceof Deno.errors.AddrInUse;
      if (isTaken && port < last && isListenable(port + 1)) continue;
      if (isTaken) throw new CommandError(1, `port ${port} is taken; name another with --port, or --port 0 for any.`);
      const pair = tls ? ` with ${tls.cert} and ${tls.key}` : "";
      throw new CommandError(1, `it can't listen on ${address(port)}${pair}: ${reasonOf(error)}.`);
    }
  }
}

function readPem(flag: string, path: string): string {
  requireRead(path);
  try {
    return Deno.readTextFileSync(path);
  } catch (error) {
    throw new CommandError(1, `the file of ${flag} can't be read: ${reasonOf(error)}.`);
  }
}

/** Returns the first line of an error, as the end of a sentence. */
function reasonOf(error: unknown): string {
  return (error as Error).message.replace(/\.?(\n.*)?$/s, "");
}

/** Returns an address as it stands in a URL: IPv6 in brackets (RFC 3986, 3.2.2). */
function bracketed(address: string): string {
  return address.includes(":") ? `[${address}]` : address;
}

/** Says what is served and where: to a person in a few lines, to a file or a program in one. */
function announce({ host, port: named, tls }: Command, root: string, { hostname, port }: Deno.NetAddr): void {
  const urlOf = (address: string) => `${tls ? "https" : "http"}://${bracketed(address)}:${port}/`;
  const isEverywhere = hostname === "0.0.0.0" || hostname === "::";
  const isPrivate = hostname === "::1" || hostname.startsWith("127.");
  const url = urlOf(isEverywhere ? "localhost" : host);
  const folder = Deno.build.standalone && root === DEFAULTS.root ? "the www folder inside this program" : root;
  const note = named === undefined && port !== DEFAULT_PORT ? ` (port ${DEFAULT_PORT} is taken)` : "";
  if (!Deno.stdout.isTerminal()) return console.log(`Serving ${folder} at ${url}${note}`);

  const bold = "font-weight: bold";
  console.log(`Serving %c${folder}%c\n     at %c${url}%c${note}`, bold, "", `${bold}; color: green`, "");
  const network = isEverywhere && isAllowed({ name: "sys", kind: "networkInterfaces" })
    ? Deno.networkInterfaces().find(({ family, address }) => family === "IPv4" && !address.startsWith("127."))
    : undefined;
  if (network) console.log(`    and %c${urlOf(network.address)}%c`, `${bold}; color: green`, "");
  if (!isPrivate) console.log("Other machines can reach it too; --host 127.0.0.1 keeps it to this one.");
  console.log("Ctrl-C stops it.\n");
}

/** How long a line of the log may wait for others, in milliseconds. */
const LOG_DELAY = 50;

/** How much of the log may wait for a reader that doesn't read, in characters; what comes on top is counted. */
const LOG_LIMIT = 1 << 20;

/** Opens the request log on stdout. Lines are written in batches: to write each by itself would halve the speed. */
function openLog(): { write(line: string): void; flush(): Promise<void> } {
  const encoder = new TextEncoder();
  let waiting = "";
  let leftOut = 0;
  let written: Promise<void> | undefined;
  let isClosed = false;

  function write(line: string): void {
    if (isClosed) return;
    if (waiting.length > LOG_LIMIT) leftOut++;
    else waiting += `${line}\n`;
    written ??= new Promise((resolve) => setTimeout(resolve, LOG_DELAY)).then(flush);
  }

  async function flush(): Promise<void> {
    const note = leftOut > 0 ? `... ${leftOut} lines left out, for the log was not read\n` : "";
    const batch = encoder.encode(waiting + note);
    waiting = "";
    leftOut = 0;
    try {
      for (let sent = 0; sent < batch.length;) sent += await Deno.stdout.write(batch.subarray(sent));
    } catch {
      isClosed = true; // its reader went away; the server goes on
    }
    written = undefined;
  }

  return { write, flush };
}

if (import.meta.main) Deno.exit(await main(Deno.args));
