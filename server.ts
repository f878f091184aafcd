/**
 * http-server: serves a folder over HTTP.
 *
 *     deno run --allow-net --allow-read server.ts
 *     deno compile --allow-net --allow-read --include www --output http-server server.ts
 *
 * Each concern has one room in this file. A request walks through them once, from top to bottom:
 *
 * 1. Handler: `createHandler` builds the rooms and asks them in order.
 * 2. Target: `splitUrl`, `isHostValid`, `resolvePath` and `isHidden` turn the request line into a path.
 * 3. Folder: `find` says what lies there, inside the root and nowhere else; `read` and `send` give its bytes.
 * 4. File cache: `get` returns the representation that suits the request, in the best encoding.
 * 5. Conditions: `selectPart` decides between the whole, a range, 304, 412 and 416.
 * 6. Listing: `list` makes the page of a folder without an index.html.
 * 7. Fields: `finish` adds what every answer carries; `fail` and `redirect` make the short ones, `logLine` the log.
 *
 * Two rooms are there only when they are asked for: Password refuses requests without it, and Live reload adds a script
 * to pages and sends them events. Command line and Server start the program and stop it. It never writes, runs another
 * program, reads the environment or follows a link out of the folder; it has no uploads, themes or server-side scripts.
 *
 * @module
 */

// deno-lint-ignore-file no-import-prefix -- this file also runs without deno.json: copied, or straight from a URL
import { eTag, ifNoneMatch } from "jsr:@std/http@^1.1/etag";
import { serveDir } from "jsr:@std/http@^1.1/file-server";
import { accepts } from "jsr:@std/http@^1.1/negotiation";
import { type ServerSentEventMessage, ServerSentEventStream } from "jsr:@std/http@^1.1/server-sent-event-stream";
import { STATUS_TEXT, type StatusCode } from "jsr:@std/http@^1.1/status";
import { basename } from "jsr:@std/path@^1.1/basename";
import { SEPARATOR } from "jsr:@std/path@^1.1/constants";
import { dirname } from "jsr:@std/path@^1.1/dirname";
import { extname } from "jsr:@std/path@^1.1/extname";
import { globToRegExp } from "jsr:@std/path@^1.1/posix/glob-to-regexp";
import { join } from "jsr:@std/path@^1.1/join";
import { normalize } from "jsr:@std/path@^1.1/posix/normalize";
import { resolve } from "jsr:@std/path@^1.1/resolve";
import { parseArgs } from "node:util";

/** The version of http-server; the same as in deno.json. */
export const VERSION = "1.0.0";

// Options -----------------------------------------------------------------------------------------------------------

/** What {@linkcode createHandler} serves, and how. */
export interface Options {
  /** The folder to serve. @default {"the `www` folder beside this file, or `./www` where that was loaded from a URL"} */
  root: string;
  /** The path that the root is served under, such as `/docs/`; all others get a 404. @default {"/"} */
  base: string;
  /** Whether a folder without an `index.html` is answered with a list of what it holds. @default {true} */
  listing: boolean;
  /** Whether files and folders whose names begin with a dot are served. `/.well-known/` always is. @default {false} */
  dotfiles: boolean;
  /** Whether symbolic links that lead out of the root are followed. Links inside it always are. @default {false} */
  symlinks: boolean;
  /** Whether what exists nowhere and is no file of a page gets the root's `index.html`. @default {false} */
  spa: boolean;
  /** Whether every answer allows every origin to read it (Fetch standard, CORS protocol). @default {false} */
  cors: boolean;
  /** Fields for every answer, as name and value; each replaces what the answer had of that name. @default {[]} */
  headers: [name: string, value: string][];
  /** For how many seconds a client may reuse an answer, HTML apart, without asking; 0: ask every time. @default {0} */
  maxAge: number;
  /** Whether files are sent compressed to clients that accept it; false sends their bytes as they are. @default {true} */
  compress: boolean;
  /** Whether the Host must be `localhost`, under it, or an IP address, against DNS rebinding. @default {false} */
  localhostOnly: boolean;
  /** Whether pages reload in the browser when a file under the root changes. @default {false} */
  live: boolean;
  /** What changes without a reload, as globs of names or paths; `node_modules` and dotfiles do anyway. @default {[]} */
  ignore: string[];
  /** Takes a line for each reload, without its line break; undefined for none. @default {undefined} */
  report?: (line: string) => void;
  /** Ends live reload: the event streams at once, for a server's shutdown waits for them, and the watching soon after. */
  signal?: AbortSignal;
  /** What every client must send, as `user:password` (RFC 7617, 2); undefined where anyone may ask. @default {undefined} */
  auth?: string;
  /** Takes one line for each request, without its line break; undefined for no log. @default {undefined} */
  log?: (line: string) => void;
  /** The clock, in milliseconds since 1970; tests give another one. @default {() => Date.now()} */
  now: () => number;
}

/** The value of every option that is not given. */
export const DEFAULTS: Readonly<Options> = {
  root: import.meta.dirname === undefined ? "www" : join(import.meta.dirname, "www"),
  base: "/",
  listing: true,
  dotfiles: false,
  symlinks: false,
  spa: false,
  cors: false,
  headers: [],
  maxAge: 0,
  compress: true,
  localhostOnly: false,
  live: false,
  ignore: [],
  now: () => Date.now(),
};

// Handler -----------------------------------------------------------------------------------------------------------

/** Answers a request; throws only what `log` throws. Do not write to the bytes of an answer: they may be the cached ones. */
export type Handler = (request: Request, info?: Deno.ServeHandlerInfo) => Response | Promise<Response>;
type Info = Deno.ServeHandlerInfo;

const INDEX = "index.html";
const NOT_FOUND_PAGE = "404.html";
const ATTEMPTS = 50; // at a request whose file changes between being found and being opened

/**
 * Returns the handler that serves `options.root`. Throws NotFound if that does not exist, an Error if it can't be watched
 * (with `live`), and a TypeError if `auth` lacks a colon or a password.
 */
export function createHandler(options: Partial<Options> = {}): Handler {
  const given = Object.entries(options).filter(([, value]) => value !== undefined);
  const settings: Options = { ...DEFAULTS, ...Object.fromEntries(given) };
  const { listing, spa, localhostOnly, log, now } = settings;
  const base = settings.base = tidyBase(settings.base);
  const folder = new Folder(settings);
  const fields = new Fields(settings.live ? { ...settings, maxAge: 0 } : settings);
  settings.compress &&= !settings.headers.some(([name]) => name.toLowerCase() === "content-encoding"); // encoded already
  // With live reload HTML stays uncompressed, because the script is added to it.
  const isEncodable = (type: string) => settings.compress && !(settings.live && type.startsWith("text/html"));
  const cache = new FileCache(folder, fields, isEncodable);
  const hasPassword = settings.auth === undefined ? () => true : createPasswordCheck(settings.auth);
  const live = settings.live ? new LiveReload(folder, fields, settings) : undefined; // last: it begins to watch
  return handle;

  function handle(request: Request, info?: Info): Response | Promise<Response> {
    const start = log === undefined ? 0 : now();
    const target = splitUrl(request.url, base);
    const answer = answerSafely(request, target, info);
    if (log === undefined && request.method !== "HEAD") return answer;
    const finish = (response: Response) => {
      const client = (info?.remoteAddr as Deno.NetAddr | undefined)?.hostname ?? "-";
      if (!live?.has(target.path)) log?.(logLine(client, request, target, response, start, now()));
      return request.method === "HEAD" ? withoutBody(response) : response;
    };
    return answer instanceof Promise ? answer.then(finish) : finish(answer);
  }

  /** Turns every error into an answer. */
  function answerSafely(request: Request, target: Target, info?: Info, attempt = 1): Response | Promise<Response> {
    const recover = (error: unknown) => {
      if (error instanceof ChangedError && attempt < ATTEMPTS) return answerSafely(request, target, info, attempt + 1);
      const response = fields.fail(request, statusOf(error));
      if (response.status >= 500) logError(`${request.method} ${displayTarget(target)}: ${errorMessage(error)}`);
      return response;
    };
    try {
      const response = respond(request, target, info);
      return response instanceof Promise ? response.catch(recover) : response;
    } catch (error) {
      return recover(error);
    }
  }

  function respond(request: Request, target: Target, info?: Info): Response | Promise<Response> {
    const { url, query } = target;
    if (!isHostValid(request, localhostOnly)) return fields.fail(request, 400);
    // A preflight never has the password (Fetch, 3.3.5).
    if (!hasPassword(request.headers) && !fields.isPreflight(request)) return fields.fail(request, 401, CHALLENGE);
    const isOutside = target.path === "" && base !== "";
    if (isOutside) return url === base ? fields.redirect("/", query) : fields.fail(request, 404);
    const path = resolvePath(target.path);
    if (path === undefined) return fields.fail(request, 400);
    if (request.method === "OPTIONS") return fields.answerOptions(request);
    if (request.method !== "GET" && request.method !== "HEAD") return fields.fail(request, 405, { allow: ALLOW });
    const version = live?.version; // before the read, so that a later change triggers a reload
    const selected = live?.respond(path, query) ?? select(request, path, query);
    if (live === undefined && !(selected instanceof Promise)) return send(request, selected, fields, info);
    return Promise.resolve(selected).then(async (selected) =>
      await send(request, await live?.addScript(request, selected, version!) ?? selected, fields, info)
    );
  }

  /** Returns what lies at a path, in the encoding that suits the request, or the answer where nothing does. */
  function select(request: Request, path: string, query: string): Selected | Promise<Selected> {
    const isFolderPath = path.endsWith("/");
    const file = folder.find(isFolderPath ? path + INDEX : path);
    if (file?.isFile) return cache.get(file, request.headers);
    const entry = isFolderPath ? folder.find(path) : file;
    // A page's relative links count from its URL: a folder's ends with a slash, a file's doesn't.
    if (entry?.isFile === isFolderPath) return fields.redirect(isFolderPath ? entry.path : `${path}/`, query);
    if (entry !== undefined && listing) return list(folder, entry, cache, request, query);
    if (entry !== undefined) return selectNotFound(request, path);

    const page = isFolderPath ? undefined : folder.find(`${path}.html`); // of a clean URL
    if (page?.isFile) return cache.get(page, request.headers);
    const isView = spa && !isHidden(path) && (extname(path) === "" || isNavigation(request)); // of a single-page app
    const app = isView ? folder.find(`/${INDEX}`) : undefined;
    return app?.isFile ? cache.get(app, request.headers) : selectNotFound(request, path);
  }

  /** Returns the `404.html` nearest to the path on the way up to the root, or one plain line. */
  function selectNotFound(request: Request, path: string): Selected | Promise<Selected> {
    let page: Entry | undefined;
    // From the root down, as far as there are folders: a path of 30,000 segments costs a look, not 30,000.
    for (let level = "/"; level !== "";) {
      const found = folder.find(level + NOT_FOUND_PAGE);
      if (found?.isFile) page = found;
      else if (level !== "/" && folder.find(level)?.isFile !== false) break;
      level = path.slice(0, path.indexOf("/", level.length) + 1);
    }
    if (page === undefined) return fields.fail(request, 404);
    return Promise.resolve(cache.get(page, request.headers)).then((page) => page.asNotFound(), (error) => {
      if (statusOf(error) === 403) return fields.fail(request, 404); // a page that may not be read is none
      throw error;
    });
  }
}

/** What answers a request, before its conditions and ranges are looked at; or an answer that has none. */
type Selected = Representation | Response;

/** Answers with what was selected: whole, a range of it, or with 304, 412 or 416 where the request asks for that. */
function send(request: Request, selected: Selected, fields: Fields, info?: Info): Response | Promise<Response> {
  if (selected instanceof Response) return selected;
  const part = selectPart(request, selected);
  if (part === 304) return selected.answerNotModified(fields);
  if (part === 412) return fields.fail(request, 412);
  if (part === 416) return fields.fail(request, 416, { "content-range": `bytes */${selected.content.size}` });
  // More bytes than announced are an error over HTTP/2 (with HTTPS). Over HTTP/1 Deno.serve cuts them off, others do not.
  const isExact = () => info === undefined || request.url.startsWith("https:") || !request.headers.has("host");
  return part === undefined ? selected.answer(isExact) : selected.answerRange(part, isExact());
}

/** Returns the answer to a HEAD (RFC 9110, 9.3.2). */
function withoutBody(response: Response): Response {
  if (response.body === null) return response;
  response.body.cancel();
  // To no body Deno adds a length of 0, to a stream none.
  return new Response(response.headers.has("content-length") ? null : new Blob().stream(), response);
}

// Target ------------------------------------------------------------------------------------------------------------

/** The parts of a request's URL as the client sent them: path, what that is below the base, query with its question mark. */
type Target = { url: string; path: string; query: string };

/** Scheme, authority, path and query of a request's URL; Deno joins the first three without looking at them. */
const URL_PARTS = /^[^:/?#]+:\/\/[^/?#]*([^?#]*)(\?[^#]*)?/;

/** Splits a URL; its path below the base is empty where it is outside. */
function splitUrl(requestUrl: string, base: string): Target {
  const [, url = "", query = ""] = URL_PARTS.exec(requestUrl) ?? [];
  const path = url.startsWith(`${base}/`) ? url.slice(base.length) : "";
  return { url, path, query };
}

/** Returns a base as it stands in front of a path in a URL: empty for the root, else without a slash at its end. */
function tidyBase(base: string): string {
  return encodePath(normalize(`/${base}/`)).slice(0, -1);
}

/** `uri-host [ ":" port ]` (RFC 9110, 7.2; RFC 3986, 3.2.2). */
const HOST = /^(?:\[[\da-f:.%]+\]|[\w.~!$&'()*+,;=%-]*)(?::\d*)?$/i;

/** The hosts that no other site can have: addresses, and the names of the client's own machine (RFC 6761, 6.3). */
const LOCAL_HOST = /^(?:\[[\da-f:.%]+\]|[\d.]+|(?:[\w-]+\.)*localhost)(?::\d*)?$/i;

/** Whether the Host field names a host; one with a slash would become part of the path. HTTP/2 and 1.0 have none. */
function isHostValid({ headers }: Request, localhostOnly: boolean): boolean {
  const host = headers.get("host");
  return host === null || (localhostOnly ? LOCAL_HOST : HOST).test(host);
}

/** Whether a person goes to the URL, not a page that needs a file (Fetch Metadata, 2.3); older browsers ask for HTML. */
function isNavigation({ headers }: Request): boolean {
  const mode = headers.get("sec-fetch-mode");
  return mode === null ? /\btext\/html\b/i.test(headers.get("accept") ?? "") : mode === "navigate";
}

/** A path in which there is nothing to decode or to tidy, as most are. */
const TIDY_PATH = /^(?=\/)(?:\/[\w-][\w.-]*)*\/?$/;

/** Returns a path decoded once, tidied, never outside the root; undefined for a bad escape or UTF-8, NUL, a backslash. */
export function resolvePath(rawPath: string): string | undefined {
  if (TIDY_PATH.test(rawPath)) return rawPath;
  let path;
  try {
    path = decodeURIComponent(rawPath);
  } catch {
    return undefined;
  }
  if (/[\0\\]/.test(path)) return undefined; // a backslash is a separator on Windows
  const tidy = normalize(`/${path}`);
  return /\/\.{1,2}$/.test(path) && tidy !== "/" ? `${tidy}/` : tidy; // `/a/.` is a folder (RFC 3986, 5.2.4)
}

/** Whether a path leads to or through a dotfile; `/.well-known/` is for the public to see (RFC 8615). */
export function isHidden(path: string): boolean {
  return path.includes("/.") && path.replace(/^\/\.well-known(?=\/|$)/, "").includes("/.");
}

/** Returns a path as it stands in a URL. */
function encodePath(path: string): string {
  return /[^\w./-]/.test(path) ? path.split("/").map(encodeURIComponent).join("/") : path;
}

// Folder ------------------------------------------------------------------------------------------------------------

type Bytes = Uint8Array<ArrayBuffer>;

/** A regular file or a folder that may be served; only {@linkcode Folder} makes one. */
interface Entry {
  path: string; // where the URL space has it: decoded, tidied, without a slash at the end (but `/` for the root)
  file: string; // where the disk has it by that name
  realPath: string; // where that leads when every link is followed
  isFile: boolean;
  size: number;
  mtime: number; // when it was last modified, in milliseconds
  isDated: boolean; // whether that is a date that a client can be told (RFC 9110, 8.8.2.1)
  version: number[]; // what the disk says of it that tells whether it is still the same
  isStable: boolean; // whether every change from now on shows in the version; git calls the others "racily clean"
  resolvedUntil: number; // until when its real path counts without another look; `Folder` alone says so
}

/** A file or folder as a listing has it: its size in bytes, and when it was modified, in milliseconds. */
type Listed = { name: string; isFile: boolean; size: number; mtime: number };

/** What part of a file is sent. `isExact` makes it exactly the announced length, or an error, if the file changes. */
type SendOptions = { range?: ByteRange; isExact?: boolean };

/** The file is no longer the one that was found: the request is to begin anew. */
class ChangedError extends Error {
  override name = "ChangedError";
}

const SETTLING_TIME = 2000; // ms after a change in which another may leave no trace: FAT's clock ticks every 2 s
const READ_SIZE = 1 << 20; // bytes of the largest file that is read into memory
const SYNC_SIZE = 64 << 10; // bytes up to which a read takes less time than to hand it to another thread
const SNIFFED_SIZE = 1024; // bytes of a file without a known extension that are looked at
const FOUND_LIMIT = 20_000; // entries that are remembered
const MISSES = 10; // files that were not there before `node:fs` is loaded, which takes 15 ms

/** The only door to the disk: what lies at a path, whether it is still the same, its bytes and its type. */
class Folder {
  readonly root: string;
  /** The types of extensions, null where there is none: what is registered for TypeScript's is video. */
  #types = new Map<string, string | null>([".ts", ".tsx", ".mts", ".cts"].map((extension) => [extension, null]));
  #found = new LruCache<Entry>(FOUND_LIMIT);
  #misses = 0;
  #existsSync?: (path: string) => boolean;

  /** Throws where the root does not exist. */
  constructor(private readonly options: Pick<Options, "root" | "dotfiles" | "symlinks" | "now">) {
    this.root = resolve(options.root);
    Deno.realPathSync(this.root);
  }

  /** Returns what lies at a path, unless it is hidden, outside the root, or neither a regular file nor a folder. */
  find(path: string): Entry | undefined {
    const known = this.#found.get(path);
    if (known !== undefined && this.isUnchanged(known)) return known;
    const { dotfiles, symlinks, now } = this.options;
    if (!dotfiles && isHidden(path)) return undefined;
    const trimmed = path.length > 1 && path.endsWith("/") ? path.slice(0, -1) : path;
    const file = this.root + trimmed; // which is tidy, and Windows takes a slash as well
    try {
      if (this.#isMissing(file)) return undefined;
      // The root may be a link, which a deployment turns to a new release: from here on all is of the same one.
      const realRoot = Deno.realPathSync(this.root);
      const realPath = Deno.realPathSync(join(realRoot, trimmed)); // of the whole path: a link anywhere may lead out
      if (!symlinks && !isInside(realRoot, realPath)) return undefined;
      // To Windows `GIT~1` may be another name of `.git`.
      if (!dotfiles && trimmed.includes("~") && isHidden(toUrlPath(realPath, realRoot))) return undefined;
      const info = Deno.statSync(realPath);
      // To open a FIFO waits for its writer, and a device may never end.
      if (!info.isFile && !info.isDirectory) return undefined;
      const { isFile, size } = info;
      const version = versionOf(info);
      const [, mtime = 0, ctime = 0] = version;
      const time = now();
      const isDated = mtime > 0 && mtime <= time; // what lies in the future says nothing
      const isStable = time - Math.max(ctime, isDated ? mtime : 0) > SETTLING_TIME;
      const resolvedUntil = dirname(realPath) === realRoot ? Infinity : 0; // no folder is between that could change
      const entry = { path: trimmed, file, realPath, resolvedUntil, isFile, size, mtime, isDated, version, isStable };
      if (isStable) this.#found.set(path, entry, 1);
      return entry;
    } catch (error) {
      if (statusOf(error) !== 404) throw error;
      if (++this.#misses === MISSES) this.#existsSync = globalThis.process.getBuiltinModule("node:fs").existsSync;
      return undefined;
    }
  }

  /** Whether certainly nothing is there; the error that says so takes five times as long as all the rest of a 404. */
  #isMissing(file: string): boolean {
    if (this.#existsSync === undefined || this.#existsSync(file)) return false;
    // It says no of what may not be looked at, too: the folder has to be one that everybody may look into.
    return ((Deno.statSync(dirname(file)).mode ?? 0) & 0o111) === 0o111;
  }

  /** Whether the disk still has what was found there, in the same place. */
  isUnchanged(entry: Entry): boolean {
    try {
      if (!isSameVersion(versionOf(Deno.statSync(entry.file)), entry.version)) return false;
      // A folder above it may be a link to the outside by now. To look takes twice as long as the rest: once in a ms.
      if (entry.resolvedUntil === Infinity) return true;
      const now = this.options.now();
      if (entry.resolvedUntil < now && Deno.realPathSync(entry.file) !== entry.realPath) return false;
      entry.resolvedUntil = now;
      return true;
    } catch {
      return false;
    }
  }

  /** Opens a file; throws {@linkcode ChangedError} where what was opened is not what was found. */
  async #open({ realPath, version }: Entry, start = 0): Promise<Deno.FsFile> {
    const file = await Deno.open(realPath); // not `openSync`, which would wait where a FIFO has taken the file's place
    if (isEmbedded(this.root) || isSameVersion(versionOf(file.statSync()), version)) {
      if (start > 0) file.seekSync(start, Deno.SeekMode.Start);
      return file;
    }
    file.close();
    throw new ChangedError();
  }

  /** Returns the first bytes of a file, of the version that the entry describes. */
  async read(entry: Entry, length: number): Promise<Bytes> {
    using file = await this.#open(entry);
    const bytes = new Uint8Array(length);
    for (let filled = 0; filled < length;) {
      const rest = bytes.subarray(filled);
      const count = length <= SYNC_SIZE ? file.readSync(rest) : await file.read(rest);
      if (count === null) throw new ChangedError(); // it has become shorter
      filled += count;
    }
    return bytes;
  }

  /** Answers with a file or a range of it. Deno sends an open file without JavaScript: to its end, if not `isExact`. */
  async send(entry: Entry, { range, isExact }: SendOptions, init: ResponseInit): Promise<Response> {
    const { start, end } = range ?? { start: 0, end: entry.size - 1 };
    // `serveDir` sends a range through JavaScript, which takes three times as long.
    const body = range ? (await this.#open(entry, start)).readable : (await this.#serve("GET", entry.realPath)).body!;
    if (!this.isUnchanged(entry)) { // what is unchanged now is what `serveDir` has opened
      await body.cancel();
      throw new ChangedError();
    }
    return new Response(isExact ? body.pipeThrough(exactly(end - start + 1)) : body, init);
  }

  /** Returns the type of a file: what `serveDir` says of its extension, else what its first bytes look like. */
  async typeOf(entry: Entry, start: Bytes): Promise<string> {
    const extension = extname(entry.path).toLowerCase();
    let type = this.#types.get(extension);
    if (type === undefined) {
      type = (await this.#serve("HEAD", entry.file)).headers.get("content-type"); // by the name that it has here
      this.#types.set(extension, type);
    }
    return type ?? (isText(start.subarray(0, SNIFFED_SIZE)) ? "text/plain; charset=UTF-8" : "application/octet-stream");
  }

  /** Yields the names in a folder, in batches of so many; throws where it may not be read. */
  async *list(folder: Entry, batch: number): AsyncGenerator<Deno.DirEntry[]> {
    let entries: Deno.DirEntry[] = [];
    for await (const entry of Deno.readDir(folder.realPath)) {
      if (entries.push(entry) < batch) continue;
      yield entries;
      entries = [];
    }
    yield entries;
  }

  /** Returns what a listing says of a name in a folder; undefined where a click would not open it. */
  look(folder: Entry, { name, isFile, isDirectory, isSymlink }: Deno.DirEntry): Listed | undefined {
    const path = join(folder.path, name);
    if (name.includes("\\") || !this.options.dotfiles && isHidden(path)) return undefined; // no URL has a backslash
    try {
      // What is no link is where it seems to be: there is no need to ask for its real path.
      const isPlain = isFile || isDirectory;
      const found = isSymlink ? this.find(path) : isPlain ? Deno.statSync(join(folder.realPath, name)) : undefined;
      return found && { name, isFile: found.isFile, size: found.size, mtime: Number(found.mtime) || 0 };
    } catch {
      return undefined; // it has gone, or may not be looked at
    }
  }

  /** Lets `serveDir` answer with a file. */
  async #serve(method: string, file: string): Promise<Response> {
    const fsRoot = dirname(file);
    const request = new Request(`http://localhost${encodePath(toUrlPath(file, fsRoot))}`, { method });
    const response = await serveDir(request, { fsRoot, showIndex: false, showDotfiles: true, quiet: true });
    if (!response.ok) throw new ChangedError(); // the next attempt says why it can't be opened
    return response;
  }
}

/** Whether a root lies inside a compiled program: nothing changes there, and an open file may not be asked what it is. */
function isEmbedded(root: string): boolean {
  return Deno.build.standalone && root === DEFAULTS.root;
}

/** Whether a real path is the folder or lies in it; with the separator, or `/www-private` would lie in `/www`. */
function isInside(folder: string, path: string): boolean {
  return path === folder || path.startsWith(folder.endsWith(SEPARATOR) ? folder : folder + SEPARATOR);
}

/** Returns where a URL has a file that lies in a folder. */
function toUrlPath(file: string, folder: string): string {
  return normalize(`/${file.slice(folder.length).replaceAll(SEPARATOR, "/")}`);
}

/** Returns size, times, inode and device; 0 for what there is none of, and for times that no date can say. */
function versionOf({ size, mtime, ctime, ino, dev }: Deno.FileInfo): number[] {
  return [size, mtime?.getTime() || 0, ctime?.getTime() || 0, ino ?? 0, dev];
}

function isSameVersion(one: number[], other: number[]): boolean {
  return one.every((number, index) => number === other[index]);
}

/** Whether bytes are the start of a UTF-8 text: no control characters but white space and escape sequences. */
function isText(start: Bytes): boolean {
  try {
    const text = new TextDecoder("utf-8", { fatal: true }).decode(start, { stream: true });
    // deno-lint-ignore no-control-regex -- control characters are what it looks for
    return !/[\0-\x08\x0e-\x1a\x1c-\x1f\x7f]/.test(text);
  } catch {
    return false;
  }
}

/** Passes on so many bytes of a stream and no more, and fails where there are fewer. */
function exactly(size: number): TransformStream<Bytes, Bytes> {
  return new TransformStream({
    transform(chunk, controller) {
      controller.enqueue(chunk.subarray(0, size));
      if ((size -= chunk.length) <= 0) controller.terminate();
    },
    flush() {
      throw new ChangedError("the file has become shorter while it was sent");
    },
  });
}

// File cache --------------------------------------------------------------------------------------------------------

/** A content coding (RFC 9110, 8.4.1); identity is none. */
export type Encoding = "br" | "zstd" | "gzip" | "identity";

/** All encodings, the preferred first where a client has no preference, and the suffix of a precompressed file's name. */
const SUFFIXES: Record<Encoding, string> = { br: ".br", zstd: ".zst", gzip: ".gz", identity: "" };
const ENCODINGS = Object.keys(SUFFIXES) as Encoding[];

/** The types that shrink; images, films, fonts for the web and archives are compressed already. */
const COMPRESSIBLE =
  /^(?:text\/|(?:application|image|model)\/(?:[\w.-]+\+)?(?:json|xml|javascript|x-javascript|ecmascript|wasm|x-sh|toml|yaml|sql|graphql|rtf|manifest|x-ndjson|vnd\.ms-fontobject|bmp|x-ms-bmp|vnd\.microsoft\.icon)|font\/(?:ttf|otf|collection))/;

const COMPRESSED_SIZE = 1024; // bytes from which on a file is compressed: a smaller one fits into one packet as it is
const TURN_SIZE = 256 << 10; // bytes that are compressed before others have a turn
const TURN_TIME = 5; // ms of work on listings before others have a turn
const CACHE_LIMIT = 64 << 20; // bytes of all representations
const OVERHEAD = 3 << 10; // bytes that one takes beside its body: fields, names, times
const ACCEPTED_LIMIT = 100; // Accept-Encoding fields that are remembered; browsers send a handful

/** What a representation is, beside its fields and bytes. */
interface Content {
  open?: (options: SendOptions, init: ResponseInit) => Response | Promise<Response>; // answers with what is not in memory
  size?: number; // its length in bytes; undefined where it has no ranges
  encodings: Encoding[]; // the others that the file can be sent in
  precompressed?: Encoding[]; // those that a precompressed file was found in when the file was read
}

/** A file in one encoding, with its answers ready-made (RFC 9110, 3.2). What it answers never changes. */
class Representation {
  readonly fields: Headers; // of the answer with all of it; copy them before you change one
  readonly #whole: Response; // that answer, to be cloned: that takes a tenth of the time of making one
  #notModified?: Response;
  #notFound?: Representation;

  /** Without bytes where `content.open` opens them. */
  constructor(readonly content: Content, fields: Headers, bytes?: Bytes, readonly status = 200) {
    this.#whole = new Response(bytes, { status, headers: fields });
    this.fields = this.#whole.headers;
  }

  /** Its bytes, not to be written to; none where they stay on the disk. */
  get bytes(): Promise<Bytes> {
    return this.#whole.clone().bytes();
  }

  answer(isExact: () => boolean): Response | Promise<Response> {
    const { open } = this.content;
    return open === undefined ? this.#whole.clone() : open({ isExact: isExact() }, this.#whole);
  }

  /** Answers with a range of it (RFC 9110, 15.3.7). */
  async answerRange(range: ByteRange, isExact: boolean): Promise<Response> {
    const { open, size } = this.content;
    const { start, end } = range;
    const init = { status: 206, headers: this.fields };
    const response = await open?.({ range, isExact }, init) ??
      new Response((await this.bytes).subarray(start, end + 1), init);
    response.headers.set("content-range", `bytes ${start}-${end}/${size}`);
    response.headers.set("content-length", `${end - start + 1}`);
    return response;
  }

  /** Answers 304 with what a cache needs: all but the fields that describe the body (RFC 9110, 15.4.5). */
  answerNotModified(fields: Fields): Response {
    if (this.#notModified === undefined) {
      const headers = new Headers([...this.fields].filter(([name]) => !/^(?:content-|accept-)/.test(name)));
      fields.finish(headers, 304);
      this.#notModified = new Response(null, { status: 304, headers });
    }
    return this.#notModified.clone();
  }

  /** Returns the same as the page of a 404: without the fields that belong to a 200. */
  async asNotFound(): Promise<Representation> {
    if (this.#notFound === undefined) {
      const fields = new Headers(this.fields);
      for (const name of ["accept-ranges", "last-modified", "etag"]) fields.delete(name);
      this.#notFound = new Representation(this.content, fields, await this.bytes, 404);
    }
    return this.#notFound;
  }
}

/** A representation, or the work on it, and the file and the precompressed file that it is valid for. */
type Cached = { file: Entry; precompressed?: Entry; representation: Representation | Promise<Representation> };

/** Files as they are now, in the encoding that suits a request. */
class FileCache {
  #cached = new LruCache<Cached>(CACHE_LIMIT);
  #accepted = new LruCache<Encoding[]>(ACCEPTED_LIMIT);
  #sizeOfTurn = 0;
  #nextTurn = Promise.resolve();
  #turnStart = 0;

  /** Of the types that shrink, only what `isEncodable` is sent compressed. */
  constructor(
    private readonly folder: Folder,
    private readonly fields: Fields,
    private readonly isEncodable: (type: string) => boolean,
  ) {}

  /** Returns a file that was just found: at once where the cache has it. */
  get(entry: Entry, request: Headers): Representation | Promise<Representation> {
    const plain = this.#share("identity", () => this.#load(entry), entry);
    if (plain instanceof Promise) return plain.then((plain) => this.#encode(plain, entry, request));
    return this.#encode(plain, entry, request);
  }

  #encode(plain: Representation, entry: Entry, request: Headers): Representation | Promise<Representation> {
    const encoding = this.#chooseEncoding(plain, request);
    if (encoding === "identity") return plain;
    if (!plain.content.precompressed?.includes(encoding)) {
      return this.#share(encoding, () => this.#compress(plain, encoding), entry);
    }
    const precompressed = this.#findPrecompressed(entry, encoding);
    if (precompressed === undefined) { // it has gone
      this.#cached.delete(entry.path);
      throw new ChangedError();
    }
    const load = () =>
      this.#load(precompressed, { plain, encoding }).catch((error) => {
        if (statusOf(error) !== 403) throw error; // one that may not be read is none
        return compressorsFor(entry.size).includes(encoding) ? this.#compress(plain, encoding) : plain;
      });
    return this.#share(encoding, load, entry, precompressed);
  }

  /** Returns what no file has, in the encoding that suits the request; the next time it may be another. */
  async represent(body: string | ReadableStream<Bytes>, fields: Headers, request: Headers): Promise<Representation> {
    const bytes = typeof body === "string" ? new TextEncoder().encode(body) : undefined;
    if (bytes !== undefined) fields.set("content-length", `${bytes.length}`);
    const isEncodable = this.isEncodable(fields.get("content-type")!);
    if (isEncodable) fields.append("vary", "Accept-Encoding");
    this.fields.finish(fields, 200);
    const encodings = isEncodable ? compressorsFor(bytes?.length ?? Infinity) : [];
    const open: Content["open"] = bytes ? undefined : (_, init) => new Response(body, init);
    const plain = new Representation({ encodings, open }, fields, bytes);
    const encoding = this.#chooseEncoding(plain, request);
    return encoding === "identity" ? plain : await this.#compress(plain, encoding);
  }

  /** Returns the representation of a file: the cached one, the one in the making, or a new one. */
  #share(encoding: Encoding, make: () => Promise<Representation>, file: Entry, precompressed?: Entry) {
    // What may change without a trace is read for each request.
    if (!file.isStable || precompressed?.isStable === false) return make();
    // The plain file's key is its path, because a new string would have to be hashed.
    const key = encoding === "identity" ? file.path : `${encoding} ${file.path}`;
    const cached = this.#cached.get(key);
    if (cached?.file === file && cached.precompressed === precompressed) return cached.representation;
    const isUnchanged = (entry?: Entry) => entry === undefined || this.folder.isUnchanged(entry);
    const representation = make().then((made) => {
      // The result counts only if it is still of what the disk has after the read.
      if (!isUnchanged(file) || !isUnchanged(precompressed)) throw new ChangedError();
      this.#cached.set(key, { file, precompressed, representation: made }, footprintOf(made, encoding));
      return made;
    });
    representation.catch(() => this.#cached.delete(key));
    this.#cached.set(key, { file, precompressed, representation }, 0);
    return representation;
  }

  /** Makes the representation of a file from its bytes; of a precompressed file with the type of its original. */
  async #load(entry: Entry, original?: { plain: Representation; encoding: Encoding }): Promise<Representation> {
    const { size } = entry;
    const isCached = size <= READ_SIZE;
    const bytes = await this.folder.read(entry, isCached ? size : SNIFFED_SIZE);
    const type = original?.plain.fields.get("content-type") ?? await this.folder.typeOf(entry, bytes);
    const fields = new Headers({ "accept-ranges": "bytes", "content-type": type, "content-length": `${size}` });
    await setValidators(fields, entry, isCached ? bytes : undefined);
    const isCompressible = COMPRESSIBLE.test(type) && this.isEncodable(type);
    if (isCompressible) fields.set("vary", "Accept-Encoding");
    if (original !== undefined) fields.set("content-encoding", original.encoding);
    this.fields.finish(fields, 200);

    const hasOthers = isCompressible && original === undefined;
    const found = hasOthers ? ENCODINGS.filter((encoding) => this.#findPrecompressed(entry, encoding)) : [];
    const encodings = hasOthers ? [...found, ...compressorsFor(size)] : [];
    const content: Content = { size, encodings, precompressed: found };
    if (!isCached) content.open = (options, init) => this.folder.send(entry, options, init);
    return new Representation(content, fields, isCached ? bytes : undefined);
  }

  /** Makes the representation of a file in an encoding that it does not lie in; the file itself where that is no smaller. */
  async #compress(plain: Representation, encoding: Encoding): Promise<Representation> {
    const { open } = plain.content;
    const fields = new Headers(plain.fields);
    fields.set("content-encoding", encoding);
    if (open !== undefined) {
      fields.delete("content-length");
      const openCompressed: Content["open"] = async (_, init) => {
        const { body } = await open({ isExact: true }, {});
        return new Response(body!.pipeThrough(new CompressionStream("gzip")), init);
      };
      return new Representation({ open: openCompressed, encodings: [] }, fields);
    }
    const bytes = await plain.bytes;
    // Deno compresses on the thread that answers. So everybody else has a turn after so many bytes.
    this.#sizeOfTurn += bytes.length;
    if (this.#sizeOfTurn > TURN_SIZE) await this.takeTurn();
    const { gzipSync, zstdCompressSync } = globalThis.process.getBuiltinModule("node:zlib"); // it takes 10 ms to load
    // For 135 KB of script zstd 3 takes 0.5 ms to 3.25:1, zstd 6 1.3 to 3.33, gzip 6 2.6 to 2.92, Brotli 5 3.3 to 3.36.
    const compressed = new Uint8Array(encoding === "zstd" ? zstdCompressSync(bytes) : gzipSync(bytes));
    if (compressed.length >= bytes.length) return plain;
    fields.set("content-length", `${compressed.length}`);
    return new Representation({ size: compressed.length, encodings: [] }, fields, compressed);
  }

  /** Lets everybody else have a turn. Of those who wait here one goes on at a time. */
  async takeTurn(): Promise<void> {
    // Twice: the first may be over when the work in front ends, and without a wait the event loop skips the network.
    await (this.#nextTurn = this.#nextTurn.then(() => delay(0)).then(() => delay(0)));
    this.#sizeOfTurn = 0;
    this.#turnStart = performance.now();
  }

  /** Whether others have waited for the time of a turn. */
  get isTurnOver(): boolean {
    return performance.now() - this.#turnStart > TURN_TIME;
  }

  /** Returns the precompressed file of another, unless it is older than that. */
  #findPrecompressed({ path, mtime }: Entry, encoding: Encoding): Entry | undefined {
    const entry = encoding === "identity" ? undefined : this.folder.find(path + SUFFIXES[encoding]);
    return entry?.isFile && entry.mtime >= mtime ? entry : undefined;
  }

  /** Returns the best encoding of those that the client accepts and the file can have; a range is of the file itself. */
  #chooseEncoding({ content: { encodings } }: Representation, request: Headers): Encoding {
    if (encodings.length === 0 || request.has("range")) return "identity";
    const field = request.get("accept-encoding") ?? "";
    const known = this.#accepted.get(field);
    const accepted = known ?? acceptedEncodings(field);
    if (known === undefined) this.#accepted.set(field, accepted, 1);
    return accepted.find((encoding) => encoding === "identity" || encodings.includes(encoding)) ?? "identity";
  }
}

/** Returns what a representation takes in the cache; a plain file under another encoding's key is counted already. */
function footprintOf({ content, fields }: Representation, encoding: Encoding): number {
  if (encoding !== "identity" && !fields.has("content-encoding")) return 0;
  return OVERHEAD + (content.open === undefined ? content.size! : 0);
}

/** Returns the encodings that `#compress` has for a file; a big one is compressed on its way, by gzip. */
function compressorsFor(size: number): Encoding[] {
  return size < COMPRESSED_SIZE ? [] : size <= READ_SIZE ? ["zstd", "gzip"] : ["gzip"];
}

/** Returns the encodings that a client accepts, the best first: by its weights, then by our order (RFC 9110, 12.5.3). */
export function acceptedEncodings(field: string): Encoding[] {
  const weights = new Map<string, number>();
  // Without white space: where that may stand in several places, to match it can take the square of its length.
  for (const item of field.toLowerCase().replace(/\s+/g, "").split(",")) {
    const [, coding, weight = "1"] = /^([^;]+)(?:;q=([01](?:\.\d{0,3})?))?$/.exec(item) ?? [];
    if (coding !== undefined) weights.set(coding.replace(/^x-(?=gzip$)/, ""), Number(weight));
  }
  // Without a word on it identity is acceptable, but less than what is asked for.
  const weightOf = (encoding: Encoding) =>
    weights.get(encoding) ?? weights.get("*") ?? (encoding === "identity" ? Number.MIN_VALUE : 0);
  return ENCODINGS.filter((encoding) => weightOf(encoding) > 0).sort((a, b) => weightOf(b) - weightOf(a));
}

/** Keeps what was used last, up to a limit of all sizes. */
export class LruCache<Value> {
  /** The sum of all sizes. */
  size = 0;
  #items = new Map<string, { value: Value; size: number }>(); // the next to go comes first

  /** Starts with nothing in it. */
  constructor(readonly limit: number) {}

  /** Returns the value of a key, which has then been used. */
  get(key: string): Value | undefined {
    const item = this.#items.get(key);
    if (item !== undefined && this.size > this.limit / 2) { // until then nobody has to go soon
      this.#items.delete(key);
      this.#items.set(key, item);
    }
    return item?.value;
  }

  /** Keeps a value, and lets go of others where all together are too big. */
  set(key: string, value: Value, size: number): void {
    this.delete(key);
    this.#items.set(key, { value, size });
    this.size += size;
    for (const key of this.#items.keys()) {
      if (this.size <= this.limit) return;
      this.delete(key);
    }
  }

  /** Lets go of a value. */
  delete(key: string): void {
    this.size -= this.#items.get(key)?.size ?? 0;
    this.#items.delete(key);
  }
}

// Conditions --------------------------------------------------------------------------------------------------------

/** Sets the tag and the date of a file (RFC 9110, 8.8); of one written a moment ago only a tag of its bytes is sure. */
async function setValidators(fields: Headers, { mtime, version, isStable, isDated }: Entry, bytes?: Bytes) {
  // Weak, because every encoding made of the same bytes has the same tag.
  if (bytes !== undefined || isStable) fields.set("etag", await eTag(bytes ?? version.join(" "), { weak: true }));
  if (isStable && isDated) fields.set("last-modified", new Date(mtime).toUTCString());
}

/** Returns what of a representation answers a request: nothing but a status, a range, or undefined for all of it. */
function selectPart({ method, headers }: Request, { content, fields, status }: Representation) {
  if (status !== 200) return undefined; // conditions and ranges are those of a 200 (RFC 9110, 13.2.1 and 14.2)
  const isRange = headers.has("range") && method === "GET"; // 14.2; asked first: from then on Deno has all fields at hand
  const outcome = evaluatePreconditions(headers, fields);
  if (outcome !== 200) return outcome;
  if (!isRange || content.size === undefined) return undefined;
  // Only the file's own date lets a range through, a weak tag never (13.1.5).
  const ifRange = headers.get("if-range");
  if (ifRange !== null && parseDate(ifRange) !== parseDate(fields.get("last-modified"))) return undefined;
  return parseRange(headers.get("range"), content.size);
}

/** An HTTP-date in any of its three forms (RFC 9110, 5.6.7); what `Date.parse` takes beyond them is no date here. */
const HTTP_DATE =
  /^[A-Z][a-z]{2,8}(?:, \d\d[ -][A-Z][a-z]{2}[ -](?:\d\d){1,2} \d\d:\d\d:\d\d GMT| [A-Z][a-z]{2} [ \d]\d \d\d:\d\d:\d\d \d{4})$/;

/** Returns the time of an HTTP-date in milliseconds, or NaN, which compares false with every time. */
function parseDate(value: string | null): number {
  if (value === null || !HTTP_DATE.test(value)) return NaN;
  return Date.parse(value.endsWith("GMT") ? value : `${value} GMT`);
}

/** Returns the status that a request's conditional fields lead to, with the validators of a 200 (RFC 9110, 13.2.2). */
export function evaluatePreconditions(request: Headers, validators: Headers): 200 | 304 | 412 {
  const ifMatch = request.get("if-match");
  if (ifMatch !== null && ifMatch !== "*") return 412; // compared strongly, which a weak tag never passes (13.1.1)
  const unmodifiedSince = request.get("if-unmodified-since");
  const isModifiedAfter = (date: string) => parseDate(validators.get("last-modified")) > parseDate(date);
  if (ifMatch === null && unmodifiedSince !== null && isModifiedAfter(unmodifiedSince)) return 412;
  const tags = request.get("if-none-match");
  if (tags !== null) {
    const tag = validators.get("etag") ?? undefined;
    if (tags === tag) return 304; // what browsers send
    // No tag has white space in it, and to look for commas in that takes `ifNoneMatch` the square of its length.
    return ifNoneMatch(tags.replace(/\s+/g, ""), tag) ? 200 : 304;
  }
  const since = request.get("if-modified-since");
  return since !== null && parseDate(validators.get("last-modified")) <= parseDate(since) ? 304 : 200;
}

/** The first and the last byte of a range, counted from 0. */
export type ByteRange = { start: number; end: number };

/** Returns the one range that a field asks for (RFC 9110, 14.1.2), 416 past the end, undefined for the whole file. */
export function parseRange(field: string | null, size: number): ByteRange | 416 | undefined {
  const [, first, last] = /^bytes=(\d*)-(\d*)$/i.exec(field ?? "") ?? [];
  if (!first && !last || size === 0) return undefined;
  if (first && last && Number(first) > Number(last)) return undefined;
  const start = first ? Number(first) : Math.max(0, size - Number(last));
  const end = first && last ? Math.min(Number(last), size - 1) : size - 1;
  return start > end ? 416 : { start, end };
}

// Listing -----------------------------------------------------------------------------------------------------------

/** What a listing can be ordered by (`?sort=`): the columns of its page. The largest and the newest come first. */
const ORDERS = new Map([
  ["name", { head: "Name", direction: "ascending", valueOf: (_: Listed) => 0 }],
  ["size", { head: "Size", direction: "descending", valueOf: ({ isFile, size }: Listed) => isFile ? size : 0 }],
  ["time", { head: "Modified", direction: "descending", valueOf: ({ mtime }: Listed) => mtime }],
]);

const BATCH = 250; // names of a folder that are looked at, ordered or written before others have a turn
const PICTURE = /\.(?:apng|avif|bmp|gif|ico|jpe?g|jxl|png|svg|webp)$/i;

type Compare = (one: Listed, other: Listed) => number;

/** Returns what lists a folder: a page, or JSON for a client that prefers it. */
async function list(folder: Folder, entry: Entry, cache: FileCache, request: Request, query: string) {
  const isJson = accepts(request, "text/html", "application/json") === "application/json";
  const type = `${isJson ? "application/json" : "text/html"}; charset=UTF-8`;
  const fields = new Headers({ "content-type": type, "vary": "Accept" });
  const params = new URLSearchParams(query);
  if (!ORDERS.has(params.get("sort")!)) params.set("sort", "name");
  const parts = render(folder, entry, cache, params, isJson);
  const first = await parts.next();
  // A big folder is sent in parts, so that the work ends when the client goes away.
  const body = first.value === ""
    ? ReadableStream.from(parts).pipeThrough(new TextEncoderStream())
    : [first.value, ...await Array.fromAsync(parts)].join("");
  return await cache.represent(body, fields, request.headers);
}

/** Yields a listing in parts, and an empty one after each piece of work. */
async function* render(folder: Folder, entry: Entry, cache: FileCache, params: URLSearchParams, isJson: boolean) {
  const filter = foldCase(params.get("q") ?? "");
  const { valueOf } = ORDERS.get(params.get("sort")!)!;
  const order = new Intl.Collator("en", { numeric: true }); // `file9` before `file10`
  const compare: Compare = (one, other) =>
    Number(one.isFile) - Number(other.isFile) || valueOf(other) - valueOf(one) || order.compare(one.name, other.name);
  const sorted: Listed[][] = [];
  for await (const batch of folder.list(entry, BATCH)) {
    if (sorted.length > 0) yield* pause(cache); // to look takes long, so it is done within the turn that this gives
    const shown = batch.filter(({ name }) => foldCase(name).includes(filter));
    sorted.push(shown.map((found) => folder.look(entry, found)).filter((item) => item !== undefined).sort(compare));
  }
  while (sorted.length > 1) sorted.push(yield* merge(sorted.shift()!, sorted.shift()!, compare, cache));
  const [items = []] = sorted;
  const names = [basename(folder.root) || "/", ...entry.path.split("/").filter(Boolean)];
  const { start, write, end } = isJson ? JSON_FORMAT : pageFormat(items, names, params);
  yield start;
  for (let index = 0; index < items.length; index += BATCH) {
    if (index > 0) yield* pause(cache);
    yield items.slice(index, index + BATCH).map((item, offset) => write(item, index + offset)).join("");
  }
  yield end;
}

async function* pause(cache: FileCache): AsyncGenerator<string, void> {
  if (cache.isTurnOver) await cache.takeTurn();
  yield "";
}

/** Merges two sorted lists; to sort all at once would keep others waiting. */
async function* merge(one: Listed[], other: Listed[], compare: Compare, cache: FileCache) {
  const merged: Listed[] = [];
  for (let i = 0, j = 0; i < one.length || j < other.length;) {
    const isNext = j === other.length || i < one.length && compare(one[i]!, other[j]!) <= 0;
    merged.push(isNext ? one[i++]! : other[j++]!);
    if (merged.length % (10 * BATCH) === 0) yield* pause(cache);
  }
  yield* pause(cache);
  return merged;
}

function foldCase(name: string): string {
  return name.normalize("NFD").toLowerCase();
}

/** As nginx has it with `autoindex_format json`. */
const JSON_FORMAT = {
  start: "[",
  write({ name, isFile, size, mtime }: Listed, index: number) {
    const item = { name, type: isFile ? "file" : "directory", mtime: new Date(mtime).toUTCString() };
    return `${index === 0 ? "" : ","}\n${JSON.stringify(isFile ? { ...item, size } : item)}`;
  },
  end: "\n]\n",
};

const PAGE_STYLE = `body { max-width: 60rem; margin: 1rem auto; padding: 0 1rem; overflow-wrap: anywhere }
h1 { font-size: 1.25rem }
a { color: light-dark(#0550ae, #8ab4f8); text-decoration: none }
a:hover, a:focus-visible { text-decoration: underline }
form { display: flex; align-items: center; gap: 1rem }
input { flex: 1; min-width: 0; max-width: 20rem; font: inherit; padding: .25rem .5rem; box-sizing: border-box }
table { width: 100%; border-collapse: collapse; margin: 1rem 0 }
td, th { padding: .2rem .5rem; border-bottom: 1px solid light-dark(#d8dee4, #3d444d); text-align: left }
td ~ td, th ~ th { text-align: right; white-space: nowrap; font-variant-numeric: tabular-nums }
td ~ td, p, ::placeholder { color: light-dark(#57606a, #a8b1bb) }
td a { display: block; padding-left: 1.5rem; text-indent: -1.5rem }
td a::before { content: ""; display: inline-block; width: 1rem; height: .8rem; margin-right: .5rem }
td a[href$="/"]::before { background: #c69026; clip-path: polygon(0 0, 40% 0, 50% 20%, 100% 20%, 100% 100%, 0 100%) }
[aria-sort=ascending] a::after { content: "\\a0\\2191" }
[aria-sort=descending] a::after { content: "\\a0\\2193" }
ul { display: grid; grid-template-columns: repeat(auto-fill, minmax(9rem, 1fr)); gap: 1rem; padding: 0; list-style: none }
img { display: block; width: 100%; height: 9rem; object-fit: contain; background: light-dark(#f0f2f4, #22272e) }
@media (pointer: coarse) { a, input { display: inline-block; min-width: 2.75rem; padding-block: .625rem } }
@media (max-width: 40rem) { td:nth-child(3), th:nth-child(3) { display: none } }`;

/** Returns how a page is written. It works without scripts, under any policy. */
function pageFormat(items: Listed[], names: string[], params: URLSearchParams): typeof JSON_FORMAT {
  const [sort, filter] = [params.get("sort")!, params.get("q") ?? ""];
  const isGrid = params.get("view") === "grid";
  const files = items.filter(({ isFile }) => isFile);
  const hasPictures = files.some(({ name }) => PICTURE.test(name));
  const size = formatSize(files.reduce((sum, { size }) => sum + size, 0));
  const linkTo = (changed: Record<string, string>, text: string) =>
    `<a href="?${escapeHtml(`${new URLSearchParams({ sort, q: filter, ...changed })}`)}">${text}</a>`;
  const columns = [...ORDERS].map(([name, { head, direction }]) =>
    `<th${name === sort ? ` aria-sort="${direction}"` : ""}>${linkTo({ sort: name }, head)}`
  );
  const crumbs = names.map((name, index) => {
    const up = "../".repeat(names.length - 1 - index);
    return up === "" ? `<bdi>${escapeHtml(name)}</bdi>` : `<a href="${up}"><bdi>${escapeHtml(name)}</bdi></a>`;
  });
  const view = isGrid ? linkTo({}, "List") : hasPictures ? linkTo({ view: "grid" }, "Pictures") : "";
  return {
    start: `${pageHead(escapeHtml(names.at(-1)!), PAGE_STYLE)}<h1>${crumbs.join(" / ")}</h1>
<form><input type="search" name="q" value="${escapeHtml(filter)}" placeholder="Filter" aria-label="Filter by name">
<input type="hidden" name="sort" value="${sort}">${view}</form>
${isGrid ? "<ul>" : `<table><tr>${columns.join("")}`}\n`,
    write: isGrid ? writePicture : writeRow,
    end: `${isGrid ? "</ul>" : "</table>"}
<p>${items.length - files.length} folders, ${files.length} files, ${size}</p>\n`,
  };
}

function writeRow({ name, isFile, size, mtime }: Listed): string {
  const local = new Date(mtime - new Date(mtime).getTimezoneOffset() * 60_000).toISOString(); // but for its Z
  const link = `<tr><td><a href="${encodeURIComponent(name)}${isFile ? "" : "/"}"><bdi>${escapeHtml(name)}</bdi></a>`;
  const exact = `${size}`.replace(/\B(?=(?:\d{3})+$)/g, ","); // `toLocaleString` takes longer than all the rest
  const cell = isFile ? `<td title="${exact} bytes">${formatSize(size)}` : "<td>";
  return `${link}${cell}<td>${local.slice(0, 10)} ${local.slice(11, 16)}\n`;
}

function writePicture({ name }: Listed): string {
  if (!PICTURE.test(name)) return "";
  const url = encodeURIComponent(name);
  return `<li><a href="${url}"><img loading="lazy" src="${url}" alt=""><bdi>${escapeHtml(name)}</bdi></a>\n`;
}

function formatSize(bytes: number): string {
  let unit = 0;
  for (; bytes >= (unit === 0 ? 1000 : 999.5) && unit < 4; unit++) bytes /= 1000;
  return `${Number(bytes.toPrecision(3))} ${["B", "kB", "MB", "GB", "TB"][unit]}`;
}

function escapeHtml(text: string): string {
  return text.replace(/[&<>"]/g, (character) => `&#${character.charCodeAt(0)};`);
}

// Fields ------------------------------------------------------------------------------------------------------------

const ALLOW = "GET, HEAD, OPTIONS";

/** The fields that every answer carries, and the answers that are no more than fields and a line. */
class Fields {
  #failures = new Map<string, Response>();

  constructor(private readonly options: Pick<Options, "base" | "cors" | "headers" | "maxAge">) {}

  /** Adds what every answer carries; the user's own fields come last and win. To do it twice changes nothing. */
  finish(fields: Headers, status: number): void {
    const { cors, headers, maxAge } = this.options;
    fields.set("x-content-type-options", "nosniff");
    if (!fields.has("cache-control")) {
      const isReusable = maxAge > 0 && status < 400 && !isHtml(fields); // a cached page names scripts that are gone
      fields.set("cache-control", isReusable ? `max-age=${maxAge}` : "no-cache"); // which means "ask again"
    }
    if (cors) {
      fields.set("access-control-allow-origin", "*");
      fields.set("access-control-expose-headers", "*");
    }
    for (const [name] of headers) fields.delete(name);
    for (const field of headers) fields.append(...field);
  }

  /** Returns an answer that is no representation of a file. */
  answer(body: string | ReadableStream | null, fields: Record<string, string>, status = 200): Response {
    const response = new Response(body, { status, headers: fields });
    this.finish(response.headers, status);
    return response;
  }

  /** Returns an answer that says its status: in one plain line, or on a page for a client that prefers HTML. */
  fail(request: Request, status: StatusCode, extra?: Record<string, string>): Response {
    const type = accepts(request, "text/plain", "text/html") ?? "text/plain";
    const key = `${status} ${type}`;
    const known = extra === undefined ? this.#failures.get(key) : undefined;
    if (known !== undefined) return known.clone();
    const text = `${status} ${STATUS_TEXT[status]}`;
    const body = type === "text/html"
      ? `${pageHead(text, "body { text-align: center }")}<h1>${text}</h1>\n`
      : `${text}\n`;
    const fields = { "content-type": `${type}; charset=UTF-8`, "content-length": `${body.length}`, "vary": "Accept" };
    const response = this.answer(body, { ...fields, ...extra }, status);
    if (extra === undefined) this.#failures.set(key, response.clone());
    return response;
  }

  /** Returns a permanent redirect that names no host, so that nothing the client sent can become one. */
  redirect(path: string, query: string): Response {
    return this.answer(null, { location: this.options.base + encodePath(path) + toAscii(query) }, 301);
  }

  isPreflight({ method, headers }: Request): boolean {
    return this.options.cors && method === "OPTIONS" && headers.has("access-control-request-method");
  }

  /** Answers OPTIONS, a CORS preflight included (RFC 9110, 9.3.7; Fetch standard, 3.3). */
  answerOptions(request: Request): Response {
    if (!this.isPreflight(request)) return this.answer(null, { allow: ALLOW }, 204);
    return this.answer(null, {
      "allow": ALLOW,
      "access-control-allow-methods": ALLOW,
      // Named one by one: `*` would leave out Authorization.
      "access-control-allow-headers": request.headers.get("access-control-request-headers") ?? "*",
      "access-control-max-age": "86400", // seconds; browsers cap it at a day or less
    }, 204);
  }
}

/** Returns the start of a page; the style is added to what all pages share. */
function pageHead(title: string, style: string): string {
  return `<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<link rel="icon" href="data:,">
<title>${title}</title>
<style>:root { color-scheme: light dark; font: 1rem/1.5 system-ui, sans-serif }
${style}</style>
`;
}

function isHtml(fields: Headers): boolean {
  return fields.get("content-type")?.startsWith("text/html") ?? false;
}

/** All that a client hears of a file system error, by its name or code: links in a circle and impossible names are 404. */
const ERROR_STATUS: [StatusCode, RegExp][] = [
  [404, /^(?:NotFound|ENOENT|NotADirectory|FilesystemLoop|ELOOP|ENAMETOOLONG|InvalidData|IsADirectory)$/],
  [403, /^(?:PermissionDenied|EACCES|NotCapable)$/],
  [503, /^(?:EMFILE|ENFILE|Busy|EBUSY|ChangedError)$/],
];

function statusOf(error: unknown): StatusCode {
  const { name = "", code = "" } = error as { name?: string; code?: string };
  return ERROR_STATUS.find(([, errors]) => errors.test(name) || errors.test(code))?.[0] ?? 500;
}

function delay(milliseconds: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, milliseconds));
}

/** Returns the first line of an error, as the end of a sentence. */
function errorMessage(error: unknown): string {
  return (error as Error).message.replace(/\.?(\n.*)?$/s, "");
}

/** Tells the operator, where that is possible: a full disk behind stderr is no reason to stop. */
function logError(text: string): void {
  try {
    console.error(`http-server: ${text}`);
  } catch {
    // There is nobody else to tell.
  }
}

/** Returns a line of the log: time, client address, method, target, status, bytes of the body, milliseconds. */
function logLine(client: string, request: Request, target: Target, response: Response, start: number, end: number) {
  const { status, headers } = response;
  // Where IPv6 takes IPv4 as well, an IPv4 address comes mapped (RFC 4291, 2.5.5.2).
  const from = `${new Date(end).toISOString()} ${client.replace(/^::ffff:(?=.*\.)/, "")}`;
  const what = `${request.method} ${displayTarget(target)}`;
  return `${from} ${what} ${status} ${headers.get("content-length") ?? "-"} ${end - start}ms`;
}

/** Returns a target as the log has it: without the authority, which may hold a password. */
function displayTarget({ url, query }: Target): string {
  return toAscii(url + query) || "*";
}

/** Returns a text with all but the visible ASCII percent-encoded: nothing in it can break a line or a field. */
function toAscii(text: string): string {
  return text.replace(/[^\x21-\x7e]/gu, encodeURIComponent);
}

// Password ----------------------------------------------------------------------------------------------------------

/** The fields of a 401 (RFC 7617, 2 and 2.1). */
const CHALLENGE = { "www-authenticate": 'Basic realm="http-server", charset="UTF-8"' };

/** What credentials must be. The error never quotes them, because they may hold a password. */
const CREDENTIALS = /^[^:\p{Cc}]*:\P{Cc}+$/u;
const CREDENTIALS_SYNTAX = "auth takes USER:PASSWORD, with a colon, a password and no control characters";

/** Returns the check for a password (RFC 7617, 2); throws where the credentials are none that a client could send. */
function createPasswordCheck(credentials: string): (request: Headers) => boolean {
  if (!CREDENTIALS.test(credentials)) throw new TypeError(CREDENTIALS_SYNTAX);
  const { createHash, timingSafeEqual } = globalThis.process.getBuiltinModule("node:crypto"); // it takes 30 ms to load
  const digestOf = (token: string) => createHash("sha256").update(token).digest();
  const digest = digestOf(new TextEncoder().encode(credentials).toBase64());
  return (request) => {
    const [, token = ""] = /^Basic +(.*)$/i.exec(request.get("authorization") ?? "") ?? [];
    return timingSafeEqual(digestOf(token), digest); // in constant time, so that nobody can guess parts of it
  };
}

// Live reload -------------------------------------------------------------------------------------------------------

const LIVE_SCRIPT_PATH = "/.live-reload/script.js"; // in a dot-folder, where nothing else is served but with `dotfiles`
const LIVE_EVENTS_PATH = "/.live-reload/events";
const QUIET_TIME = 100; // ms without a change before pages reload: a build writes many files, an editor some
const ROOT_INTERVAL = 1000; // ms between checks that the root is the same folder: one that moved away reports no more
const CLOSE_DELAY = 6000; // ms after the end in which the watcher stays open: longer than the server takes to stop

/** A stylesheet, and the map that a compiler writes beside it. */
const STYLESHEET = /\.css(?:\.map)?$/i;

/** What runs in every page; a file of its own, for a content-security policy may forbid what a page has inline. */
const LIVE_SCRIPT = `"use strict"; // http-server --live: reloads the page when a file changes
{
  const script = document.currentScript;
  script.remove(); // the page is to be what it is without it
  const isStandIn = "standIn" in script.dataset;
  const started = Symbol.for("http-server --live");
  let version, events;

  // A browser has six connections to a server: a page in a frame leaves it to the page around it, a hidden tab waits.
  if (script.src && !(started in window) && window.frameElement === null) {
    window[started] = true;
    version = new URL(script.src).search; // of the root, when the page was read
    document.addEventListener("visibilitychange", listen);
    listen();
  }

  function listen() {
    events?.close();
    if (document.hidden) return;
    events = new EventSource(new URL("events" + version, script.src));
    events.onmessage = ({ data }) => {
      const change = JSON.parse(data);
      version = "?" + change.version;
      // A stylesheet of a frame can't be seen from here.
      const isSwapped = window.length === 0 && change.styles.length > 0 && change.styles.every(swap);
      if (!isSwapped) reload();
    };
    events.onerror = ({ target }) => {
      if (target.readyState === EventSource.CLOSED) return; // forbidden: by a policy, or for lack of the password
      target.close();
      setTimeout(listen, 1000);
    };
  }

  // Reloads a stylesheet that the page links to.
  function swap(path) {
    const { href } = new URL(path, location.origin);
    const links = [...document.querySelectorAll("link[rel~=stylesheet]")].filter((link) => link.href.replace(/[?#].*/, "") === href);
    for (const link of links) link.href = href + version;
    return links.length > 0;
  }

  // A page that is gone stays on the screen until it is back: it takes ranges, which a listing or a 404 does not.
  async function reload() {
    events.close(); // its connection may be the last one
    const { headers } = await fetch(location.href, { method: "HEAD" }).catch(() => new Response());
    const isPage = headers.get("content-type")?.startsWith("text/html");
    if (isPage && (isStandIn || headers.has("accept-ranges"))) location.reload();
    else listen();
  }
}
`;

type Listener = ReadableStreamDefaultController<ServerSentEventMessage>;

/**
 * Follows the changes under a root, and sends them to the pages that listen, until the signal aborts. A page knows which
 * version of the root it was read from, so it misses no change: neither while it loads nor while the server is away.
 */
class LiveReload {
  /** The version of the root; it is another after every change. */
  version: string = crypto.randomUUID();
  #listeners = new Set<Listener>();
  #changes = new Set<string>();
  #ignored: RegExp[];
  #lastError = "";
  #quietTimer: ReturnType<typeof setTimeout> | undefined;
  #rootTimer: ReturnType<typeof setInterval>;
  #identity: string | undefined;
  #watch: { watcher: Deno.FsWatcher; ended: Promise<void> };

  /** Throws where the root can't be watched. */
  constructor(
    private readonly folder: Folder,
    private readonly fields: Fields,
    private readonly options: Pick<Options, "base" | "dotfiles" | "ignore" | "report" | "signal">,
  ) {
    this.#ignored = ["node_modules", ...options.ignore].map((glob) => globToRegExp(glob));
    this.#identity = identify(folder.root);
    this.#watch = this.#watchRoot();
    this.#rootTimer = setInterval(() => this.#ensureWatched(), ROOT_INTERVAL);
    options.signal?.addEventListener("abort", () => this.#stop());
  }

  /** Whether a path is one of its own two, which every page asks for. */
  has(path: string): boolean {
    return path === LIVE_SCRIPT_PATH || path === LIVE_EVENTS_PATH;
  }

  /** Answers with the script, or with the events since the version that the query names; other paths are none of its. */
  respond(path: string, query: string): Response | undefined {
    if (path === LIVE_EVENTS_PATH) return this.#openEvents(query);
    if (path !== LIVE_SCRIPT_PATH) return undefined;
    const type = "text/javascript; charset=UTF-8";
    return this.fields.answer(LIVE_SCRIPT, { "content-type": type, "content-length": `${LIVE_SCRIPT.length}` });
  }

  /** Returns a page with the script at its end, a page too big for the cache without, and all else as it is. */
  async addScript(request: Request, page: Selected, version: string): Promise<Selected> {
    if (page instanceof Response) return page;
    const { content, fields, status } = page;
    // A fragment that a script asks for stays as it is (Fetch Metadata, 2.1).
    const isDocument = /^(?:document|i?frame|object|embed)$/.test(request.headers.get("sec-fetch-dest") ?? "document");
    if (!isDocument || !isHtml(fields) || fields.has("content-encoding")) return page;

    // A page in the place of another, such as a listing for a missing index.html, is to be told from that.
    const attribute = fields.has("accept-ranges") ? "" : " data-stand-in";
    const source = `${this.options.base}${LIVE_SCRIPT_PATH}?${version}`;
    const element = `<script async src="${source}"${attribute}></script>\n`;
    const bytes = content.open ? undefined : await new Blob([await page.bytes, element]).bytes();
    const headers = new Headers(fields);
    for (const name of ["etag", "last-modified"]) headers.delete(name);
    headers.set("cache-control", "no-store");
    if (bytes !== undefined) headers.set("content-length", `${bytes.length}`);
    this.fields.finish(headers, status);
    const size = content.size && (bytes?.length ?? content.size); // what had no ranges still has none
    return new Representation({ ...content, size }, headers, bytes, status);
  }

  #openEvents(query: string): Response {
    let listener: Listener;
    const events = new ReadableStream<ServerSentEventMessage>({
      start: (controller) => {
        if (this.options.signal?.aborted) return controller.close();
        listener = controller;
        this.#listeners.add(listener);
        if (query !== `?${this.version}`) listener.enqueue(this.#event([]));
      },
      cancel: () => void this.#listeners.delete(listener),
    });
    const fields = { "content-type": "text/event-stream", "cache-control": "no-store" };
    return this.fields.answer(events.pipeThrough(new ServerSentEventStream()), fields);
  }

  /** Says that there is a new version, and which stylesheets are all the difference, where that is so. */
  #event(styles: string[]): ServerSentEventMessage {
    return { data: JSON.stringify({ version: this.version, styles }) };
  }

  #watchRoot() {
    try {
      const realRoot = Deno.realPathSync(this.folder.root); // as macOS reports it
      const watcher = Deno.watchFs(realRoot);
      return { watcher, ended: this.#follow(watcher, realRoot) };
    } catch (error) {
      throw new Error(`cannot watch ${displayName(this.folder.root)}: ${errorMessage(error)}`);
    }
  }

  async #follow(watcher: Deno.FsWatcher, realRoot: string): Promise<void> {
    for (;;) {
      try {
        for await (const { kind, paths } of watcher) {
          if (kind === "access") continue; // it was read, or closed after a change that was reported
          for (const file of paths) this.#recordChange(toUrlPath(file, realRoot));
        }
        return;
      } catch (error) { // such as a new folder that can't be read, or a name that is not UTF-8
        this.#logErrorOnce(`a change may be missed: ${errorMessage(error)}`);
        this.#recordChange("/");
      }
    }
  }

  #logErrorOnce(text: string): void {
    if (text !== this.#lastError) logError(text);
    this.#lastError = text;
  }

  /** Remembers a change until nothing more changes. */
  #recordChange(path: string): void {
    const { dotfiles, signal } = this.options;
    if (signal?.aborted || !dotfiles && isHidden(path) || this.#isIgnored(path)) return;
    this.#changes.add(path);
    clearTimeout(this.#quietTimer);
    this.#quietTimer = setTimeout(() => this.#broadcast(), QUIET_TIME);
  }

  /** Whether a glob is that of a path, of a folder above it, or of a name in it. */
  #isIgnored(path: string): boolean {
    const names = path.split("/").slice(1);
    const candidates = names.flatMap((name, index) => [name, names.slice(0, index + 1).join("/")]);
    return this.#ignored.some((glob) => candidates.some((candidate) => glob.test(candidate)));
  }

  async #broadcast(): Promise<void> {
    if (!await this.#ensureWatched()) return;
    // Without what is gone: it may have been an editor's temporary file, which Deno can't tell from a deleted one.
    const paths = [...this.#changes].filter((path) => identify(this.folder.root + path));
    const sheets = paths.every((path) => STYLESHEET.test(path)) ? paths.filter((path) => !path.endsWith("map")) : [];
    this.version = crypto.randomUUID();
    const event = this.#event(sheets.map((path) => this.options.base + encodePath(path)));
    const [first = "", ...more] = this.#changes; // of those that a build makes the first is reported
    const what = `${sheets.length > 0 ? "reloaded the stylesheet" : "reloaded"}: ${toAscii(first.slice(1))}`;
    if (this.#listeners.size > 0) this.options.report?.(more.length > 0 ? `${what} and ${more.length} more` : what);
    this.#changes = new Set();
    for (const listener of this.#listeners) listener.enqueue(event);
  }

  /** Whether the watched folder is still the root; if not, it tries to watch the new one, as after a clean build. */
  async #ensureWatched(): Promise<boolean> {
    const found = identify(this.folder.root);
    if (found === this.#identity) return true;
    this.#identity = undefined;
    this.#watch.watcher.close();
    await this.#watch.ended; // else Deno takes the new folder for the watched one
    if (found === undefined || found === this.#identity || this.options.signal?.aborted) return false;
    try {
      this.#watch = this.#watchRoot();
      this.#identity = found;
      this.#recordChange("/");
    } catch (error) {
      this.#logErrorOnce(errorMessage(error)); // it is tried again
    }
    return false;
  }

  #stop(): void {
    clearInterval(this.#rootTimer);
    clearTimeout(this.#quietTimer);
    for (const listener of this.#listeners) listener.close();
    this.#listeners.clear();
    // Not at once, for it hangs where a FIFO came into the folder and has no writer. A program that ends does without.
    setTimeout(() => this.#watch.watcher.close(), CLOSE_DELAY);
  }
}

/** Returns what tells a folder, or a file, from another in its place, or undefined where there is none. */
function identify(folder: string): string | undefined {
  try {
    const { dev, ino, birthtime } = Deno.statSync(folder);
    return [dev, ino, birthtime?.getTime()].join(" "); // an inode's number may be given again at once
  } catch {
    return undefined;
  }
}

// Command line ------------------------------------------------------------------------------------------------------

const DEFAULT_PORT = 8080; // where none is named
const PORT_TRIES = 100; // ports after it that are tried where it is taken

/** Every option of the command line: what `parseArgs` needs, and what `--help` says. */
const FLAGS = {
  port: { type: "string", short: "p", value: "N", help: "listen on N; 0 for any [default: 8080, or the next free]" },
  host: { type: "string", short: "a", value: "ADDRESS", help: "listen on ADDRESS [default: every interface]" },
  base: { type: "string", value: "PATH", help: "serve the folder under PATH, such as /docs/" },
  "no-listing": { type: "boolean", help: "answer 404 to a folder without an index.html" },
  dotfiles: { type: "boolean", help: "serve files and folders whose names begin with a dot" },
  symlinks: { type: "boolean", help: "follow symbolic links that lead out of the folder" },
  spa: { type: "boolean", help: "single-page app: answer index.html to a path that exists nowhere" },
  live: { type: "boolean", help: "reload pages in the browser when a file changes" },
  ignore: { type: "string", multiple: true, value: "GLOB", help: "with --live: no reload for these; repeatable" },
  cors: { type: "boolean", help: "let pages of every origin read the answers" },
  header: { type: "string", multiple: true, value: '"NAME: VALUE"', help: "set a field on every answer; repeatable" },
  "max-age": { type: "string", value: "SECONDS", help: "let browsers keep all but HTML that long [default: 0, ask]" },
  "no-compress": { type: "boolean", help: "send files as they are, never compressed" },
  auth: { type: "string", value: "USER:PASSWORD", help: "ask every client for this name and password" },
  cert: { type: "string", value: "FILE", help: "HTTPS and HTTP/2, with this certificate (PEM), and" },
  key: { type: "string", value: "FILE", help: "its private key (PEM)" },
  quiet: { type: "boolean", short: "q", help: "do not log requests" },
  help: { type: "boolean", short: "h", help: "print this text" },
  version: { type: "boolean", short: "V", help: "print the version" },
} as const satisfies Record<string, Flag>;

type Flag = { type: "string" | "boolean"; short?: string; multiple?: boolean; value?: string; help: string };

/** The command line is wrong, and the message says how. Its exit code is 2, that of every other error 1. */
class UsageError extends Error {}

function checkUsage(isRight: boolean, message: string): void {
  if (!isRight) throw new UsageError(message);
}

/** Returns the text of `--help`. */
export function helpText(): string {
  const rows = Object.entries<Flag>(FLAGS).map(([name, { short, value, help }]) => {
    const flag = `${short ? `-${short},` : "   "} --${name}${value ? ` ${value}` : ""}`;
    return `  ${flag.padEnd(28)} ${help}`;
  });
  return `http-server ${VERSION}: serves a folder over HTTP

Usage: server.ts [options] [folder]

  [folder]                     the folder to serve [default: www beside the script, or else the current one]

${rows.join("\n")}`;
}

/** What the command line asks for; the port is undefined where the user named none. */
type Command = ReturnType<typeof parseCommand>;

/** Reads the command line; throws a {@linkcode UsageError} that says what is wrong with it. */
function parseCommand(args: string[]) {
  const { values, positionals } = parseFlags(args);
  // A command that `deno install` made with `.` as its folder can be given another one.
  const [root, ...more] = positionals[0] === "." && positionals.length === 2 ? positionals.slice(1) : positionals;
  const { base, dotfiles, symlinks, spa, cors, live, ignore, auth, cert, key, quiet, "max-age": maxAge } = values;
  checkUsage(more.length === 0, `one folder is served, not ${positionals.length}: ${positionals.join(", ")}`);
  checkUsage(root !== "", "the folder's name is empty");
  checkUsage(values.host !== "", "--host takes an address to listen on, such as 127.0.0.1");
  checkUsage(!cert === !key && cert !== "", "--cert and --key take a file each, and HTTPS needs both");
  checkUsage(auth === undefined || CREDENTIALS.test(auth), `--${CREDENTIALS_SYNTAX}`);
  checkUsage(!live || maxAge === undefined, "--live has browsers ask each time, so --max-age can't go with it");
  const host = values.host?.replace(/^\[(.*)\]$/, "$1"); // an IPv6 address as a URL has it
  const options: Partial<Options> = {
    ...{ root, base, dotfiles, symlinks, spa, cors, live, ignore, auth },
    listing: !values["no-listing"],
    compress: !values["no-compress"],
    headers: values.header?.map(parseHeader),
    maxAge: parseNumber("--max-age", maxAge, 2 ** 31),
    localhostOnly: host !== undefined && isLoopback(host),
  };
  return {
    options,
    host,
    port: parseNumber("--port", values.port, 65535),
    tls: cert && key ? { cert, key } : undefined,
    quiet,
    print: values.help ? helpText() : values.version ? `http-server ${VERSION}` : undefined,
  };
}

function parseFlags(args: string[]) {
  // To `parseArgs` a negative number is an option; that it is a wrong value can be said better.
  const joined = args.reduce<string[]>((all, arg) => {
    const flag = /^-\d/.test(arg) && all.at(-1)?.match(/^--?(?=[a-z])/) ? all.pop()! : undefined;
    return [...all, flag === undefined ? arg : `${flag}${flag.startsWith("--") ? "=" : ""}${arg}`];
  }, []);
  try {
    return parseArgs({ args: joined, options: FLAGS, allowPositionals: true });
  } catch (error) {
    // Its first sentence says what is wrong; the others are about a syntax that nothing here needs.
    const [sentence = ""] = (error as Error).message.split(/\.\s|\n/);
    const message = sentence.replace(/^O|^U/, (letter) => letter.toLowerCase()).replace("is ambiguous", "is missing");
    throw new UsageError(`${message}; --help lists the options`);
  }
}

function parseNumber(flag: string, value: string | undefined, most: number): number | undefined {
  if (value === undefined) return undefined;
  const isRight = /^\d{1,10}$/.test(value) && Number(value) <= most;
  checkUsage(isRight, `${flag} takes a whole number from 0 to ${most}, not "${value}"`);
  return Number(value);
}

function parseHeader(field: string): [name: string, value: string] {
  // A token and visible characters (RFC 9110, 5.1 and 5.5): Deno ends itself over some others that `Headers` lets pass.
  const [, name = "", value = ""] = /^([\w!#$%&'*+.^`|~-]+):\s*([\t\x20-\x7e\x80-\xff]*?)\s*$/.exec(field) ?? [];
  checkUsage(name !== "", `--header takes "Name: value", not ${JSON.stringify(field)}`);
  const isFraming = /^(?:content-length|transfer-encoding)$/i.test(name);
  checkUsage(!isFraming, `--header can't set ${name}: it frames the message`);
  return [name, value];
}

// Server ------------------------------------------------------------------------------------------------------------

/** Runs until a signal stops it. The exit code is 0, or 1 if the machine refuses, 2 for wrong usage, 130 if forced. */
export async function main(args: string[]): Promise<number> {
  try {
    const command = parseCommand(args);
    if (command.print === undefined) return await serve(command);
    console.log(command.print);
    return 0;
  } catch (error) {
    console.error(`http-server: ${errorMessage(error)}.`);
    return error instanceof UsageError ? 2 : 1;
  }
}

const SAME_SIGNAL = 300; // ms in which another signal is the same: `deno task` passes on a Ctrl-C that the terminal sent too
const RETRY_DELAY = 100; // ms before connections are accepted again
const STOP_LIMIT = 4000; // ms that a stop may take while answers are on their way: some clients have stopped reading
const IDLE_STOP_LIMIT = 1000; // ms that it may take while none are: some have connected and ask nothing

async function serve(command: Command): Promise<number> {
  const root = findRoot(command.options.root);
  checkKey(command, root);
  const log = command.quiet ? undefined : new LogWriter();
  const report = Deno.stdout.isTerminal() ? log && ((line: string) => log.write(line)) : undefined;
  const stop = new AbortController();
  const writeRequest = log && ((line: string) => log.writeRequest(line));
  const handle = createHandler({ ...command.options, root, signal: stop.signal, report, log: writeRequest });
  let inFlight = 0; // answers on their way, but for those from the cache: most clients have them at once
  const handler: Deno.ServeHandler = (request, info) => {
    const answer = handle(request, info);
    if (answer instanceof Promise) {
      inFlight++;
      info.completed.catch(() => {}).finally(() => inFlight--); // it rejects when the client goes away
    }
    return answer;
  };
  let server = listen(command, handler);
  const { hostname, port } = server.addr;
  const stopped = watchSignals(() => {
    stop.abort();
    server.shutdown();
  }, () => inFlight > 0);
  announce(command, root, server.addr);

  const drained = async () => {
    for (let isAgain = false; !stop.signal.aborted; isAgain = true) {
      try {
        if (isAgain) server = listen({ ...command, host: hostname, port }, handler);
        await server.finished;
      } catch (error) {
        // Without a free file descriptor Deno stops accepting for good, where a moment later there may be one.
        logError(`cannot accept a connection: ${errorMessage(error)}`);
        await delay(RETRY_DELAY);
      }
    }
    return 0;
  };
  const exitCode = await Promise.race([drained(), stopped]);
  if (exitCode === 0) await Promise.race([log?.written, delay(IDLE_STOP_LIMIT)]); // its reader may not read
  return exitCode;
}

/** Calls `shutdown` at the first signal. Resolves to the exit code at the second, or when the stop takes too long. */
function watchSignals(shutdown: () => void, isAnswering: () => boolean): Promise<number> {
  const { promise, resolve } = Promise.withResolvers<number>();
  let start: number | undefined;
  const onSignal = () => {
    const elapsed = () => performance.now() - start!;
    if (start !== undefined) return elapsed() > SAME_SIGNAL ? resolve(130) : undefined;
    start = performance.now();
    if (isAnswering() && Deno.stdout.isTerminal()) {
      console.log("\nStopping when all answers are sent; Ctrl-C again stops at once.");
    }
    shutdown();
    setInterval(() => elapsed() > (isAnswering() ? STOP_LIMIT : IDLE_STOP_LIMIT) && resolve(0), 100);
  };
  Deno.addSignalListener("SIGINT", onSignal);
  if (Deno.build.os !== "windows") Deno.addSignalListener("SIGTERM", onSignal); // Windows has none
  return promise;
}

/** Returns the folder that was named, or else `www` beside this file, or the current one where that is missing. */
function findRoot(named?: string): string {
  const root = resolve(named ?? DEFAULTS.root);
  try {
    for (const _ of Deno.readDirSync(root)) break; // leaving the loop closes the folder
    return root;
  } catch (error) {
    if (statusOf(error) !== 404) throw new Error(`cannot read the folder ${root}: ${errorMessage(error)}`);
    checkUsage(named === undefined, `there is no folder ${root}; name the folder to serve`);
    return findRoot(".");
  }
}

/** Refuses a private key that every client could download. */
function checkKey({ tls, options }: Command, root: string): void {
  if (tls === undefined || identify(tls.key) === undefined) return; // `listen` says why it can't be read
  const [realRoot, realKey] = [Deno.realPathSync(root), Deno.realPathSync(tls.key)];
  const isServed = isInside(realRoot, realKey) && (options.dotfiles || !isHidden(toUrlPath(realKey, realRoot)));
  checkUsage(!isServed, `every client could download the key ${tls.key}; move it out of the folder that is served`);
}

/** Starts to listen on the named port, or on the first free one from the default on. */
function listen({ host = everyInterface(), port, tls }: Command, handler: Deno.ServeHandler) {
  const first = port ?? DEFAULT_PORT;
  const last = port ?? DEFAULT_PORT + PORT_TRIES;
  for (let port = first; port <= last; port++) {
    try {
      return Deno.serve({
        port,
        hostname: host,
        ...tls && { cert: Deno.readTextFileSync(tls.cert), key: Deno.readTextFileSync(tls.key) },
        automaticCompression: false,
        onListen() {}, // `announce` says it
        onError(error) { // from a body already on its way, such as that of a file that became shorter
          logError(`an answer broke off: ${errorMessage(error)}`);
          return new Response(null, { status: 500 });
        },
      }, handler);
    } catch (error) {
      if (error instanceof Deno.errors.AddrInUse) continue;
      if (port > first) break; // the next port is not allowed, but that is not the point
      const pair = tls ? ` with ${tls.cert} and ${tls.key}` : "";
      throw new Error(`cannot listen on ${bracketed(host)}:${port}${pair}: ${errorMessage(error)}`);
    }
  }
  throw new Error(`port ${first} is taken; name another with --port, or --port 0 for any`);
}

/** Returns `::` where that takes IPv4 as well, and may be listened on without a question; else all of IPv4. */
function everyInterface(): string {
  try {
    const { state } = Deno.permissions.querySync({ name: "net", host: "[::]" });
    if (Deno.build.os === "windows" || state !== "granted") return "0.0.0.0";
    Deno.listen({ hostname: "::", port: 0 }).close();
    return "::";
  } catch {
    return "0.0.0.0"; // the system has no IPv6
  }
}

/** Returns a root as a person knows it. */
function displayName(root: string): string {
  return isEmbedded(root) ? "the www folder inside this program" : root;
}

/** Returns an address as it stands in a URL: IPv6 in brackets (RFC 3986, 3.2.2). */
function bracketed(address: string): string {
  return address.includes(":") ? `[${address}]` : address;
}

/** Whether only this machine can reach an address, in any of its spellings. */
function isLoopback(host: string): boolean {
  const name = URL.parse(`http://${bracketed(host)}`)?.hostname ?? "";
  return /^(?:localhost$|127\.|\[::1\]|\[::ffff:7f)/.test(name);
}

/** Says what is served and where. */
function announce({ host, port: named, tls, options }: Command, root: string, { hostname, port }: Deno.NetAddr): void {
  const isEverywhere = hostname === "0.0.0.0" || hostname === "::";
  const base = tidyBase(options.base ?? DEFAULTS.base);
  const url = `${tls ? "https" : "http"}://${bracketed(isEverywhere ? "localhost" : host ?? hostname)}:${port}${base}/`;
  const isCurrent = options.root === undefined && root !== resolve(DEFAULTS.root);
  const folder = `${displayName(root)}${isCurrent ? " (the current folder)" : ""}`;
  const note = named === undefined && port !== DEFAULT_PORT ? ` (port ${DEFAULT_PORT} is taken)` : "";
  const unencrypted = tls ? "" : " Without HTTPS (--cert and --key) the password can be read on the wire.";
  const isPublic = Deno.stdout.isTerminal() && !isLoopback(hostname);
  const [bold, link] = ["font-weight: bold", "font-weight: bold; color: green"]; // on a terminal alone
  console.log("Serving %c%s%c at %c%s%c%s", bold, folder, "", link, url, "", note);
  if (isPublic) console.log("Other machines can reach it too; --host 127.0.0.1 keeps it to this one.");
  if (options.live) console.log("Pages reload when a file changes (--live).");
  if (options.auth !== undefined) console.log(`Clients must log in (--auth).${unencrypted}`);
  if (Deno.stdout.isTerminal()) console.log("Ctrl-C stops it.\n");
}

const LOG_DELAY = 50; // ms that a line of the log may wait for others
const LOG_LIMIT = 1 << 20; // characters that may wait for a reader that doesn't read; lines on top of that are dropped

/** The request log on stdout. Lines are written in batches: to write each by itself would halve the speed. */
class LogWriter {
  /** Resolves when no line waits any more; undefined where none does. */
  written?: Promise<void>;
  #waiting = "";
  #isForPerson = Deno.stdout.isTerminal() && !Deno.noColor;

  /** Writes the line of a request: on a terminal with the local time alone, and the status in the color of its class. */
  writeRequest(line: string): void {
    if (!this.#isForPerson) return this.write(line);
    const [, time = "", what, status = "", rest] = /^(\S+) (.*) (\d{3}) (\S+ \S+)$/.exec(line) ?? [];
    const color = { 2: 32, 3: 36, 4: 33, 5: 31 }[status[0]!];
    this.write(`${new Date(time).toTimeString().slice(0, 8)} ${what} \x1b[${color}m${status}\x1b[0m ${rest}`);
  }

  write(line: string): void {
    if (this.#waiting.length > LOG_LIMIT) return;
    this.#waiting += `${line}\n`;
    // When the reader has gone away the server goes on: nothing more is written, and lines over the limit are dropped.
    this.written ??= delay(LOG_DELAY).then(() => this.#writeWaiting()).catch(() => {});
  }

  async #writeWaiting(): Promise<void> {
    while (this.#waiting !== "") {
      const batch = new TextEncoder().encode(this.#waiting);
      this.#waiting = "";
      for (let sent = 0; sent < batch.length;) sent += await Deno.stdout.write(batch.subarray(sent));
    }
    this.written = undefined;
  }
}

if (import.meta.main) Deno.exit(await main(Deno.args));
