/**
 * http-server: serves a folder over HTTP.
 *
 *     deno run --allow-net --allow-read server.ts
 *     deno compile --allow-net --allow-read --include www --output http-server server.ts
 *
 * The file has one section per concern, roughly in the order in which a request needs them:
 *
 * 1. Handler: `createHandler` wires the sections together. Requests for files pass `handle`, `respond` and `select`.
 * 2. Target: `parseTarget` finds the path, the query and the hosts of a request.
 * 3. Files: `Files.look` finds the entry for a path, `Files.open` opens it. Requests read the served folder only here.
 * 4. Content types: `sniffType` chooses the type if the extension has none, or one that misleads; others are from std.
 * 5. Encodings: `Encodings.select` returns the representation of a file in the best encoding that the client accepts.
 * 6. Conditions: `selectPart` chooses the full response, a range, 304, 412 or 416.
 * 7. Listing: `Listings.render` builds the page or the JSON of a folder without an index.html.
 * 8. Responses: common headers, errors, redirects, OPTIONS and the log line; `send` builds the response for a file.
 *
 * Three sections are optional: Password rejects requests without credentials, Live reload adds a script to pages and
 * sends it events, Certificate makes a certificate for HTTPS. Command line and Server start and stop the program.
 *
 * The server never writes, runs a program or reads the environment. It follows links out of the folder only with
 * `--symlinks`. It has no uploads, themes or server-side scripts.
 *
 * @module
 */

// deno-lint-ignore-file no-import-prefix -- this file also runs without deno.json: copied, or straight from a URL
import { ifMatch, ifNoneMatch } from "jsr:@std/http@^1.1/etag";
import { serveDir } from "jsr:@std/http@^1.1/file-server";
import { accepts } from "jsr:@std/http@^1.1/negotiation";
import { type ServerSentEventMessage, ServerSentEventStream } from "jsr:@std/http@^1.1/server-sent-event-stream";
import { STATUS_TEXT, type StatusCode } from "jsr:@std/http@^1.1/status";
import { basename } from "jsr:@std/path@^1.1/basename";
import { SEPARATOR } from "jsr:@std/path@^1.1/constants";
import { dirname } from "jsr:@std/path@^1.1/dirname";
import { join } from "jsr:@std/path@^1.1/join";
import { extname } from "jsr:@std/path@^1.1/posix/extname";
import { globToRegExp } from "jsr:@std/path@^1.1/posix/glob-to-regexp";
import { normalize } from "jsr:@std/path@^1.1/posix/normalize";
import { resolve } from "jsr:@std/path@^1.1/resolve";
import nodeCrypto from "node:crypto";
import fs from "node:fs";
import { parseArgs } from "node:util";

/** The version of http-server; the same as in deno.json. */
export const VERSION = "1.0.0";

// Options -----------------------------------------------------------------------------------------------------------

/** The limits that tests lower; other limits stand in their sections. In milliseconds and bytes, unless noted. */
export const LIMITS = {
  readSize: 1 << 20, // larger files are not read into memory
  cacheSize: 64 << 20, // of all entries and their representations
  knownPaths: 20_000, // number of paths that live reload looks at, and of changes that it remembers
  sweepRest: 100, // the shortest time between two sweeps of live reload
  sameSignalTime: 300, // a second signal within this time repeats the first: `deno task` doubles a Ctrl-C
  stopTime: 3000, // for responses in flight to finish; some clients never read to the end
  flushTime: 1000, // in which the log can be written at the end; its reader may have stalled
  logSize: 1 << 20, // characters of the log that wait to be written; further lines are dropped
  retryDelay: 100, // before the server accepts connections again after an error
  reportInterval: 60_000, // between two reports of such errors
};

/** Options of {@linkcode createHandler}. Their initial values are the defaults: false, 0 or empty, unless noted. */
export class Options {
  /** The folder to serve; by default the `www` folder beside this file, or `./www` if this file came from a URL. */
  root: string = import.meta.dirname === undefined ? "www" : join(import.meta.dirname, "www");
  /** The URL path that the root is served under, such as `/docs/`; `/` by default. Requests outside it get a 404. */
  base = "/";
  /** Whether to list folders that have no `index.html`; true by default. */
  listing = true;
  /** Whether to serve files and folders whose names begin with a dot. `/.well-known/` is always served. */
  dotfiles = false;
  /** Whether to follow symbolic links that lead out of the root. Links inside the root always work. */
  symlinks = false;
  /** Single-page app: whether unknown paths other than assets get the root's `200.html`, or else its `index.html`. */
  spa = false;
  /** Whether to send CORS headers that allow every origin (Fetch standard, 3.3). */
  cors = false;
  /** Extra response headers, which replace the server's own. `Content-Length` and `Transfer-Encoding` are invalid. */
  headers: [name: string, value: string][] = [];
  /** `Cache-Control: max-age` in seconds, at most 2^31, for all files but HTML; 0, as with `live`, means `no-cache`. */
  maxAge = 0;
  /** Whether to compress responses for clients that accept it; true by default. */
  compress = true;
  /**
   * Host names that clients on this machine may use besides `localhost` and IP addresses; `.example.com` includes
   * `example.com`. Other names get a 403: any web page could point its own name to 127.0.0.1 (DNS rebinding).
   */
  allowHosts: string[] = [];
  /** Whether pages reload in the browser when a file that was requested changes. */
  live = false;
  /** Globs of names, or of paths below the root such as `docs/*.txt`, that must not trigger a reload. */
  ignore: string[] = [];
  /** Called with a line of text, without a line break, when a change is sent to open pages. */
  onReload?: (line: string) => void;
  /** Stops live reload. Abort it before `server.shutdown()`, which waits for open event streams. */
  signal?: AbortSignal;
  /** Credentials (`user:password`) that every request needs (RFC 7617, 2); by default, there is no login. */
  auth?: string;
  /** Called with one line per request, without a line break. */
  log?: (line: string) => void;
  /** The format of `log`: the Combined Log Format (default), or time, client, request, status, length, duration. */
  logFormat: "combined" | "short" = "combined";
  /** The clock, in milliseconds since 1970; `Date.now` by default. Tests replace it. */
  now: () => number = () => Date.now();
  /** Times and sizes; {@linkcode LIMITS} by default. Tests lower them. */
  limits: typeof LIMITS = LIMITS;
}

const DEFAULTS = new Options();

// Handler -----------------------------------------------------------------------------------------------------------

/**
 * Handles a request. `info` is what `Deno.serve` passes; without it, `allowHosts` is not checked, and the log has no
 * client. Rejects only if `log` throws. The bytes of a response may be shared with the cache: do not modify them.
 */
export type Handler = (request: Request, info?: Deno.ServeHandlerInfo) => Promise<Response>;

const INDEX = "index.html";
const APP_PAGES = ["/200.html", `/${INDEX}`] as UrlPath[]; // the page of a single-page app is the first that exists

/**
 * Returns the handler that serves `options.root`. Throws NotFound if the root does not exist, and a TypeError if
 * `auth`, `headers` or `maxAge` is invalid.
 */
export function createHandler(options: Partial<Options> = {}): Handler {
  const given = Object.entries(options).filter(([, value]) => value !== undefined);
  const settings: Options = Object.assign(new Options(), Object.fromEntries(given));
  const { listing, spa, log, logFormat: format, now } = settings;
  const base = settings.base = normalizeBase(settings.base);
  const allowHosts = settings.allowHosts.map(normalizeHost);
  if (settings.live) settings.maxAge = 0;
  const files = new Files(settings);
  const responses = new Responses(settings);
  const hasUserEncoding = settings.headers.some(([name]) => name.toLowerCase() === "content-encoding");
  // Live reload inserts its script into uncompressed HTML.
  const isEncodable = (type: string) => settings.compress && !hasUserEncoding && !(settings.live && isHtmlType(type));
  const encodings = new Encodings(files, responses, isEncodable, settings);
  const listings = new Listings(files, encodings);
  const isAuthorized = settings.auth === undefined ? () => true : createPasswordCheck(settings.auth);
  const live = settings.live ? new LiveReload({ files, encodings, responses }, settings) : undefined;
  return handle;

  async function handle(request: Request, info?: Deno.ServeHandlerInfo): Promise<Response> {
    const start = log === undefined ? 0 : now();
    const target = parseTarget(request, base, info);
    const siteVersion = live && isNavigation(request) ? await live.pageVersion() : undefined; // before the page is read
    let response;
    try {
      response = await respond(request, target);
    } catch (error) {
      response = responses.fail(request, statusOf(error));
      if (response.status >= 500) logError(`${request.method} ${target.logged}: ${errorMessage(error)}`);
    }
    if (siteVersion !== undefined) response = live!.insertScript(response, siteVersion);
    if (log !== undefined && (response.status === 401 || !live?.isOwn(request, target.path))) {
      log(logLine(request, response, { target, start, end: now(), format }));
    }
    return request.method === "HEAD" ? withoutBody(response) : response;
  }

  async function respond(request: Request, target: Target): Promise<Response> {
    const { path, query } = target;
    if (!target.foreignHosts.every((host) => HOST.test(host))) return responses.fail(request, 400);
    const refusedHost = findRefusedHost(target, allowHosts);
    if (refusedHost !== undefined) return responses.refuseHost(request, refusedHost);
    // Browsers send preflights without credentials (Fetch, 3.3.5).
    if (!isAuthorized(request.headers) && !responses.isPreflight(request)) {
      return responses.fail(request, 401, CHALLENGE, "");
    }
    if (target.decodedPath === undefined) return responses.fail(request, 400);
    if (request.method === "OPTIONS") return responses.allow(request);
    if (request.method !== "GET" && request.method !== "HEAD") return responses.fail(request, 405, { allow: ALLOW });
    if (path === undefined) {
      return target.decodedPath === base ? responses.redirect("/", query) : responses.fail(request, 404);
    }
    const liveResponse = live?.respond(path, query);
    if (liveResponse !== undefined) return liveResponse;
    const selected = await select(request, path, query);
    if (selected instanceof Response) return selected;
    const effective = live?.withoutConditions(request, selected) ?? request;
    return await send(effective, selected, { files, encodings, responses });
  }

  /** Looks a path up. Live reload watches it from then on. */
  function look(path: UrlPath): Entry | undefined {
    live?.watch(path);
    return files.look(path);
  }

  /** Returns the entry of the first path that is a file. The paths after it are neither looked up nor watched. */
  function findFile(...paths: UrlPath[]): Entry | undefined {
    return paths.values().map(look).find((entry) => entry?.isFile);
  }

  /** Returns the representation of a file or a listing for a path, or a finished response such as a redirect. */
  async function select(request: Request, path: UrlPath, query: string): Promise<Representation | Response> {
    const isFolderPath = path.endsWith("/");
    const index = append(path, isFolderPath ? INDEX : `/${INDEX}`);
    const found = look(isFolderPath ? index : path);
    if (found?.isFile) return await encodings.select(found, request.headers);
    const page = isFolderPath ? undefined : findFile(append(path, ".html"));
    if (page !== undefined) return await encodings.select(page, request.headers);
    const entry = isFolderPath ? look(path) : found;
    if (entry?.isFile) return responses.redirect(entry.path, query); // a file has no trailing slash
    const folders = files.foldersAbove(isFolderPath ? index : path); // throws if one may not be entered

    // With `spa`, a folder counts only if it has an index.html. Other folders are paths of the app.
    const isFolder = entry !== undefined && (!spa || findFile(index) !== undefined);
    if (isFolder && !isFolderPath) return responses.redirect(append(path, "/"), query); // for its relative links
    if (isFolder && listing) return await listings.render(entry, request, query);
    const app = spa && isAppRoute(request, path) ? findFile(...APP_PAGES) : undefined;
    if (app !== undefined) return await encodings.select(app, request.headers);
    return await selectNotFound(request, path, folders);
  }

  /** Returns the `404.html` nearest to the path, from its folder up to the root, or else a plain 404. */
  async function selectNotFound(request: Request, path: UrlPath, folders: UrlPath[]) {
    const end = path.indexOf("/", folders[0]!.length);
    if (end > 0) live?.watch(path.slice(0, end) as UrlPath); // missing now, but it may be created with a 404.html
    for (const folder of folders) {
      try {
        const page = findFile(append(folder, "404.html"));
        if (page !== undefined) return await asNotFound(await encodings.select(page, request.headers));
      } catch (error) {
        if (statusOf(error) >= 500) throw error; // an unreadable 404.html counts as missing
      }
    }
    return responses.fail(request, 404);
  }
}

// Target ------------------------------------------------------------------------------------------------------------

/** A decoded path in the URL space of the root: it starts with `/` and uses `/` on every system. */
export type UrlPath = string & { readonly kind: "URL path" };

/** An absolute path on the disk, with the separators of the system. */
type DiskPath = string & { readonly kind: "disk path" };

/** The target of a request (RFC 9110, 7.1), and its client. */
interface Target {
  client: string; // its address, or "-" if it is unknown
  logged: string; // path and query in ASCII, or "*"; without the authority, which may contain a password
  query: string; // as the client sent it, with the question mark, or ""
  decodedPath?: UrlPath; // decoded and normalized; undefined if it is malformed
  path?: UrlPath; // the part of it below the base; undefined if it is malformed or outside the base
  foreignHosts: string[]; // the hosts of the request, apart from IP addresses and localhost
}

/** Authority, path and query of the URL of a request, which Deno concatenates from them without validation. */
const URL_PARTS = /^[^:/?#]+:\/\/([^/?#]*)([^?#]*)(\?[^#]*)?/;

/** `uri-host [ ":" port ]` (RFC 9110, 7.2; RFC 3986, 3.2.2). */
const HOST = /^(?:\[[\da-f:.%]+\]|[\w.~!$&'()*+,;=%-]+)(?::\d*)?$/i;

/** Hosts that no other site can have: IP addresses, and localhost (RFC 6761, 6.3). */
const IP_OR_LOCALHOST = /^(?:\[[\da-f:.%]+\]|[\d.]+|(?:[\w-]+\.)*localhost\.?)(?::\d*)?$/i;

/** Loopback addresses; only this machine has them. */
const LOOPBACK_ADDRESS = /^(?:127\.|::1$|::ffff:127\.)/;

/** Parses the target of a request. Collects the hosts of `Host`, of an absolute target, and of `:authority`. */
function parseTarget({ url, headers }: Request, base: string, info?: Deno.ServeHandlerInfo): Target {
  const client = (info?.remoteAddr as Deno.NetAddr | undefined)?.hostname ?? "-";
  const [, authority = "", rawPath = "", query = ""] = URL_PARTS.exec(url) ?? [];
  const foreignHosts = [headers.get("host") ?? authority, authority].filter((host) => !IP_OR_LOCALHOST.test(host));
  const decodedPath = resolvePath(rawPath);
  const path = decodedPath?.startsWith(`${base}/`) ? decodedPath.slice(base.length) as UrlPath : undefined;
  return { client, logged: toAscii(rawPath + query) || "*", query, decodedPath, path, foreignHosts };
}

/** Returns the first host that a client on this machine may not use. `.example.com` also allows `example.com`. */
function findRefusedHost({ client, foreignHosts }: Target, allowHosts: string[]): string | undefined {
  if (!LOOPBACK_ADDRESS.test(client)) return undefined;
  return foreignHosts.map(normalizeHost).find((host) =>
    !allowHosts.some((allowed) => allowed.startsWith(".") ? `.${host}`.endsWith(allowed) : host === allowed)
  );
}

function normalizeHost(host: string): string {
  return host.toLowerCase().replace(/\.?(?::\d*)?$/, ""); // without the root dot and the port
}

/** Decodes a base and removes its trailing slash: "/docs/" becomes "/docs", and "/" becomes "". */
function normalizeBase(base: string): string {
  return (resolvePath(`${base}/`) ?? normalize(`/${base}/`)).slice(0, -1);
}

/** Reports whether a path belongs to a single-page app: it has no extension, or the request is a navigation. */
function isAppRoute(request: Request, path: UrlPath): boolean {
  if (isHidden(path)) return false;
  return !/\.[^/]*\/?$/.test(path) || isNavigation(request) || request.headers.has(LIVE_CHECK_HEADER);
}

/**
 * Reports whether a request is a navigation, and not for a part of a page (Fetch Metadata, 2.2). Browsers send no Fetch
 * Metadata over plain HTTP to another machine, but accept HTML. Scripts that load HTML often add X-Requested-With.
 */
function isNavigation({ headers }: Request): boolean {
  const mode = headers.get("sec-fetch-mode");
  if (mode !== null) return mode === "navigate";
  return /\btext\/html\b/i.test(headers.get("accept") ?? "") && !headers.has("x-requested-with");
}

/** Decodes and normalizes a path. Returns undefined for a malformed escape, invalid UTF-8, NUL or a backslash. */
export function resolvePath(rawPath: string): UrlPath | undefined {
  try {
    const path = decodeURIComponent(rawPath);
    if (/[\0\\]/.test(path)) return undefined; // a backslash is a separator on Windows
    return normalize(`/${path}`.replace(/\/\.\.?$/, "$&/")) as UrlPath; // `/a/.` means `/a/` (RFC 3986, 5.2.4)
  } catch {
    return undefined;
  }
}

/**
 * Reports whether a path leads to or through a dotfile; `/.well-known/` is exempt (RFC 8615). Some file systems ignore
 * invisible characters in names.
 */
export function isHidden(path: UrlPath): boolean {
  const visible = path.replace(/\p{Default_Ignorable_Code_Point}/gu, "");
  return visible.includes("/.") && visible.replace(/^\/\.well-known(?=\/|$)/, "").includes("/.");
}

/** Percent-encodes a path as the URL parser would, and also `?` and `#`. */
function encodePath(path: string): string {
  return /[^\w./-]/.test(path) ? encodeURI(path).replace(/[?#]/g, encodeURIComponent) : path;
}

function append(path: UrlPath, suffix: string): UrlPath {
  return path + suffix as UrlPath;
}

// Files -------------------------------------------------------------------------------------------------------------

type Bytes = Uint8Array<ArrayBuffer>;

/**
 * One version of a regular file or a folder. The version of an entry never changes: a changed file gets a new entry. It
 * keeps the representations of its file.
 */
interface Entry {
  readonly path: UrlPath; // no trailing slash; "" is the root
  readonly realPath: DiskPath; // all links resolved
  readonly isFile: boolean;
  readonly size: number; // in bytes
  readonly mtime: number; // in milliseconds, as ctime; 0 if it is missing
  readonly ctime: number;
  readonly version: string; // from `versionOf`
  readonly hasUsableDate: boolean; // whether mtime may be sent as Last-Modified (RFC 9110, 8.8.2.1)
  readonly isSettled: boolean; // whether it is so old that any further change gives another version
  readonly representations: Map<Encoding, Promise<Representation>>;
  cachedSize: number; // bytes in the cache
  resolvedAt: number; // when `realPath` was last checked
  readonly missingUntil: Map<Encoding, number>; // when to look again for a precompressed file that is missing
}

/** An open file and the entry that describes it. */
type Opened = { file: Deno.FsFile; entry: Entry };

/** The contents of a file, or the start of a large one, and the entry that describes them. */
type Contents = { entry: Entry; bytes: Bytes };

/** A range of bytes (RFC 9110, 14.1.2); both ends count from 0 and are included. */
export type ByteRange = { start: number; end: number };

const SETTLING_TIME = 2000; // ms in which a second change may leave the same mtime: FAT has a resolution of 2 s
const SYNC_SIZE = 64 << 10; // bytes; reads up to this size are faster synchronously than in a thread
const ENTRY_SIZE = 1 << 10; // bytes of an entry in memory

/** Names of devices, which Windows has in every folder, with any extension. */
const DEVICE = /\/(?:con|prn|aux|nul|conin\$|conout\$|(?:com|lpt)[\d¹²³])[ .]*(?:[.:][^/]*)?(?:\/|$)/i;

/** All access to the served folder: lookup, change detection, contents and content types. */
class Files {
  readonly root: DiskPath;
  #entries = new Map<UrlPath, Entry>(); // the entry used last comes last
  #size = 0; // bytes of the entries and their representations
  #types = new Map<string, string | null>(); // the registered type of each extension, or null

  /** Throws NotFound if the root does not exist. */
  constructor(private readonly options: Pick<Options, "root" | "dotfiles" | "symlinks" | "now" | "limits">) {
    this.root = resolve(options.root) as DiskPath;
    Deno.realPathSync(this.root);
  }

  /** Returns the entry for a path, unless it is missing, hidden, outside the root, or no regular file or folder. */
  look(path: UrlPath): Entry | undefined {
    const key = (path.endsWith("/") ? path.slice(0, -1) : path) as UrlPath;
    const known = this.#entries.get(key);
    if (known === undefined && (this.#isRefused(path) || !this.#exists(key))) return undefined;
    const entry = this.#find(key, known);
    this.#entries.delete(key);
    if (entry !== known) this.#size -= known?.cachedSize ?? 0;
    if (entry?.isSettled) this.#entries.set(key, entry);
    if (entry?.cachedSize === 0) this.addSize(entry, ENTRY_SIZE);
    return entry;
  }

  /** Returns the known entry for a path if it is current, otherwise a new one, or undefined as `look` does. */
  #find(path: UrlPath, known?: Entry): Entry | undefined {
    try {
      const isSame = known !== undefined && versionOf(Deno.statSync(this.root + path)) === known.version;
      // A parent folder may have become a link to the outside. This check is expensive: at most once per millisecond.
      const time = this.options.now();
      const realPath = isSame && known.resolvedAt >= time ? known.realPath : this.#resolve(path);
      if (isSame && realPath === known.realPath) {
        known.resolvedAt = time;
        return known;
      }
      if (realPath === undefined) return undefined;
      const info = Deno.statSync(realPath);
      // Opening a FIFO blocks until it has a writer, and reading a device may never end.
      return info.isFile || info.isDirectory ? this.#describe(path, realPath, info) : undefined;
    } catch (error) {
      if (statusOf(error) !== 404) throw error;
      return undefined;
    }
  }

  /** Reports whether a path is refused because of its names: it is hidden, or a device on Windows. */
  #isRefused(path: UrlPath): boolean {
    return !this.options.dotfiles && isHidden(path) || Deno.build.os === "windows" && DEVICE.test(path);
  }

  /** Returns the real path of a path that may contain links, unless it leads out of the root or through a dotfile. */
  #resolve(path: UrlPath): DiskPath | undefined {
    // A deployment may switch a root that is a link: resolve it once, so that a switch can't mix two targets.
    const realRoot = Deno.realPathSync(this.root) as DiskPath;
    if (realRoot !== this.root) checkPermission(realRoot);
    const realPath = Deno.realPathSync(realRoot + path) as DiskPath;
    const pathInRoot = toUrlPath(realPath, realRoot);
    if (pathInRoot === undefined) {
      if (!this.options.symlinks) return undefined;
      checkPermission(realPath);
    }
    return this.options.dotfiles || !isAlias(path, pathInRoot, realRoot) ? realPath : undefined;
  }

  #describe(path: UrlPath, realPath: DiskPath, info: Deno.FileInfo): Entry {
    const { isFile, size } = info;
    const mtime = Number(info.mtime) || 0; // a time that no Date can express is NaN
    const ctime = Number(info.ctime) || 0;
    const time = this.options.now();
    const hasUsableDate = mtime > 0 && mtime <= time; // a date in the future is meaningless
    return {
      ...{ path, realPath, isFile, size, mtime, ctime, version: versionOf(info), hasUsableDate },
      isSettled: time - Math.max(ctime, hasUsableDate ? mtime : 0) > SETTLING_TIME,
      representations: new Map(),
      cachedSize: 0,
      resolvedAt: 0,
      missingUntil: new Map(),
    };
  }

  /**
   * Returns the existing folders above a path, the deepest first; they may be hidden. Throws PermissionDenied if the
   * path seems to be missing only because the server may not enter the deepest one.
   */
  foldersAbove(path: UrlPath): UrlPath[] {
    const folders = ["/" as UrlPath];
    for (let end = path.indexOf("/", 1); end > 0; end = path.indexOf("/", end + 1)) {
      const folder = path.slice(0, end + 1) as UrlPath;
      if (!this.#exists(folder)) break;
      folders.unshift(folder);
    }
    const mode = Deno.statSync(this.root + folders[0]).mode ?? 0;
    const mayEnter = (mode & 0o111) === 0o111; // everybody may
    try {
      if (!mayEnter && !this.#isRefused(path)) Deno.statSync(this.root + path);
    } catch (error) {
      if (statusOf(error) === 403) throw error; // with any other error, the path counts as missing
    }
    return folders;
  }

  /** Reports whether a path exists; false without permission. This is faster than catching a NotFound error. */
  #exists(path: UrlPath): boolean {
    return fs.existsSync(this.root + path);
  }

  /**
   * Opens a file. The returned entry describes the open file: it is `entry` itself, or a new one if the file
   * has changed since it was looked up. Throws NotFound if the file was deleted.
   */
  async open(entry: Entry): Promise<Opened> {
    // Then accept any version: a file that is written without a pause always differs, as without a stable inode number.
    const opened = await this.#openOnce(entry, false) ?? await this.#openOnce(this.look(entry.path), true);
    if (opened === undefined) throw new Deno.errors.NotFound("the file was deleted");
    return opened;
  }

  /** Opens the file of an entry. Returns undefined if it was deleted, or has changed and `mayDiffer` is false. */
  async #openOnce(entry: Entry | undefined, mayDiffer: boolean): Promise<Opened | undefined> {
    if (entry === undefined) return undefined;
    let file: Deno.FsFile | undefined;
    let opened: Opened | undefined;
    try {
      file = await Deno.open(entry.realPath); // `openSync` would block everybody if a FIFO replaced the file
      const info = isEmbedded(this.root) ? Deno.statSync(entry.realPath) : file.statSync();
      if (versionOf(info) === entry.version) opened = { file, entry };
      else if (mayDiffer && info.isFile && this.#resolve(entry.path) === entry.realPath) {
        opened = { file, entry: this.#describe(entry.path, entry.realPath, info) };
      }
    } catch (error) {
      if (statusOf(error) !== 404) throw error;
    } finally {
      if (opened === undefined) file?.close();
    }
    return opened;
  }

  /** Reads a small file, unless it has changed. It is several times faster than `read`, which waits for a thread. */
  readNow(entry: Entry, limit = SYNC_SIZE): Contents | undefined {
    if (entry.size > limit) return undefined;
    const bytes = new Uint8Array(entry.size);
    let file: number | undefined;
    try {
      // A FIFO that replaced the file would block `openSync` without O_NONBLOCK, which Windows does not have.
      file = fs.openSync(entry.realPath, fs.constants.O_RDONLY | (fs.constants.O_NONBLOCK ?? 0));
      const isWhole = fs.readSync(file, bytes, 0, entry.size, null) === entry.size;
      return isWhole && versionOf(fs.fstatSync(file)) === entry.version ? { entry, bytes } : undefined;
    } catch {
      return undefined; // `read` reports why
    } finally {
      if (file !== undefined) fs.closeSync(file);
    }
  }

  /**
   * Reads a file, or the start of a large one. The returned entry describes these bytes: it is that of `open`, or, if
   * the file changed meanwhile, a new one that is not cached.
   */
  async read(known: Entry): Promise<Contents> {
    const { file, entry } = await this.open(known);
    using _ = file; // closes it
    const bytes = new Uint8Array(entry.size > this.options.limits.readSize ? SNIFFED_SIZE : entry.size);
    let filled = 0;
    while (filled < bytes.length) {
      const count = await file.read(bytes.subarray(filled)) ?? 0;
      if (count === 0) break;
      filled += count;
    }
    const after = this.look(entry.path);
    if (after?.version === entry.version) return { entry, bytes };
    const size = filled < bytes.length ? filled : entry.size;
    // Some file systems report a new inode number every time, which is no change.
    const isSettled = entry.isSettled && after?.size === size && after.mtime === entry.mtime;
    return { entry: { ...entry, size, isSettled, representations: new Map() }, bytes: bytes.subarray(0, filled) };
  }

  /** Opens a whole file with `serveDir`. Returns undefined if the file has changed. */
  async serve(entry: Entry): Promise<ReadableStream<Bytes> | undefined> {
    const { ok, body } = await this.#serveDir("GET", entry.realPath);
    if (ok && this.look(entry.path) === entry) return body ?? undefined; // so serveDir opened this version
    await body?.cancel();
    return undefined;
  }

  /** Returns the content type of a file, given its first bytes. Throws NotFound if the file was deleted. */
  async typeOf({ path }: Entry, start: Bytes): Promise<string> {
    const extension = extname(path).toLowerCase();
    let registered = this.#types.get(extension);
    if (registered === undefined) {
      const { ok, headers } = await this.#serveDir("HEAD", this.root + path as DiskPath);
      if (!ok) throw new Deno.errors.NotFound("the file was deleted");
      registered = headers.get("content-type");
      this.#types.set(extension, registered);
    }
    return sniffType(extension, registered, start.subarray(0, SNIFFED_SIZE));
  }

  #serveDir(method: string, file: DiskPath): Promise<Response> {
    const request = new Request(`http://localhost/${encodePath(basename(file))}`, { method });
    return serveDir(request, { fsRoot: dirname(file), showIndex: false, showDotfiles: true, quiet: true });
  }

  /** Returns the names in a folder. Throws PermissionDenied if the folder can't be read. */
  list(folder: Entry): AsyncIterable<Deno.DirEntry> {
    return Deno.readDir(folder.realPath);
  }

  /** Returns the row of a listing for a name in a folder, or undefined if a request for it would not be served. */
  statEntry(folder: Entry, { name, isFile, isDirectory, isSymlink }: Deno.DirEntry): ListedEntry | undefined {
    const path = append(folder.path, `/${name}`);
    if (name.includes("\\") || this.#isRefused(path)) return undefined; // no URL has a backslash
    if (!isFile && !isDirectory && !isSymlink) return undefined;
    try {
      const found = isSymlink ? this.look(path) : Deno.statSync(folder.realPath + SEPARATOR + name);
      if (found === undefined) return undefined;
      return { name, isFile: found.isFile, size: found.isFile ? found.size : 0, mtime: Number(found.mtime) || 0 };
    } catch {
      return undefined; // deleted meanwhile, or no permission
    }
  }

  /** Returns the names in a folder that are not hidden, sorted, as one string. */
  visibleNames(folder: Entry): string {
    const names = [...Deno.readDirSync(folder.realPath)].map(({ name }) => name);
    return names.filter((name) => !this.#isRefused(append(folder.path, `/${name}`))).sort().join("\n");
  }

  /** Adds to the size of an entry, if it is in the cache. Removes the least recently used entries from a full cache. */
  addSize(entry: Entry, bytes: number): void {
    if (this.#entries.get(entry.path) !== entry) return;
    entry.cachedSize += bytes;
    this.#size += bytes;
    for (const [path, oldest] of this.#entries) {
      if (this.#size <= this.options.limits.cacheSize) return;
      this.#entries.delete(path);
      this.#size -= oldest.cachedSize;
    }
  }
}

/** Throws NotCapable if Deno may not read a path: otherwise Deno would prompt, and every client would wait for that. */
function checkPermission(path: DiskPath): void {
  const { state } = Deno.permissions.querySync({ name: "read", path });
  if (state !== "granted") throw new Deno.errors.NotCapable("the target of a link may not be read");
}

/** Reports whether the root is inside a compiled program. Its files never change, and an open one has no `stat`. */
function isEmbedded(root: string): boolean {
  return Deno.build.standalone && root === DEFAULTS.root;
}

/**
 * Reports whether a path leads through a dotfile under another name, as `GIT~1` does on Windows and on FAT. The target
 * of a link may be hidden: whoever made the link chose to serve it.
 */
function isAlias(path: UrlPath, pathInRoot: UrlPath | undefined, realRoot: DiskPath): boolean {
  if (!/~\d/.test(path) && pathInRoot === path) return false;
  const names = path.split("/").slice(1);
  return names.some((name, index) => {
    const folder = `${realRoot}/${names.slice(0, index).join("/")}`;
    // On FAT, a real path may have short names, which the folder does not list.
    if (/~\d/.test(name)) return ![...Deno.readDirSync(folder)].some((found) => found.name === name);
    const file = `${folder}/${name}`;
    const realName = basename(Deno.realPathSync(file));
    return realName.startsWith(".") && realName !== name && !Deno.lstatSync(file).isSymlink;
  });
}

/** Returns the URL path of a file in a folder, or undefined if it is outside. Both are real paths. */
function toUrlPath(file: DiskPath, folder: DiskPath): UrlPath | undefined {
  const start = folder.endsWith(SEPARATOR) ? folder : folder + SEPARATOR; // `/www-private` is not in `/www`
  if (file !== folder && !file.startsWith(start)) return undefined;
  return `/${file.slice(start.length).replaceAll(SEPARATOR, "/")}` as UrlPath;
}

/** Returns the metadata that changes if a file or folder changes, as one string. */
function versionOf({ size, mtime, ctime, ino, dev }: Deno.FileInfo | fs.Stats): string {
  return `${size}/${mtime?.getTime() || 0}/${ctime?.getTime() || 0}/${ino ?? 0}/${dev}`;
}

/** Passes exactly `size` bytes: cuts the rest, and fails if there are fewer. Calls `wait` before each chunk. */
function exactly(size: number, wait?: (size: number) => Promise<void>): TransformStream<Bytes, Bytes> {
  return new TransformStream({
    async transform(chunk, controller) {
      await wait?.(chunk.length);
      controller.enqueue(chunk.subarray(0, size));
      if ((size -= chunk.length) <= 0) controller.terminate();
    },
    flush() {
      if (size > 0) throw new Error("file was truncated while being sent");
    },
  });
}

// Content types -----------------------------------------------------------------------------------------------------

const SNIFFED_SIZE = 1024; // bytes at the start of a file that may decide its type

/** Source code; its registered types, such as video/mp2t for `.ts`, would make the browser download it. */
const SOURCE_CODE = /^\.(?:ts|tsx|mts|cts|cjs|rs|toml|sql|sh|tex)$/;

/** Returns the type of a file; `registered` is that of its extension, or null. The first bytes may decide. */
function sniffType(extension: string, registered: string | null, start: Bytes): string {
  const isPage = extension === "" && /^\s*<!doctype html/i.test(new TextDecoder().decode(start));
  const type = isPage ? "text/html; charset=UTF-8" : registered;
  if (type === null || SOURCE_CODE.test(extension)) {
    return isText(start) ? "text/plain; charset=UTF-8" : type ?? "application/octet-stream";
  }
  return isHtmlType(type) && hasOtherCharset(start) ? "text/html" : type;
}

/** Reports whether bytes are the start of UTF-8 text: no control characters but white space and escape sequences. */
function isText(start: Bytes): boolean {
  try {
    const text = new TextDecoder("utf-8", { fatal: true }).decode(start, { stream: true });
    // deno-lint-ignore no-control-regex -- it looks for control characters
    return !/[\0-\x08\x0e-\x1a\x1c-\x1f\x7f]/.test(text);
  } catch {
    return false;
  }
}

/** Reports whether HTML declares a charset other than UTF-8 (HTML standard, 13.2.3.2), or has the mark of UTF-16. */
function hasOtherCharset(start: Bytes): boolean {
  if (isUtf16(start)) return true;
  const text = new TextDecoder("latin1").decode(start).replace(/<!--.*?(?:-->|$)/gs, "");
  const [, charset] = /<meta\s[^>]*?charset\s*=\s*["']?\s*([\w-]+)/i.exec(text) ?? [];
  return charset !== undefined && !/^utf-?8$/i.test(charset);
}

/** Reports whether text starts with the byte order mark of UTF-16. */
function isUtf16([first, second]: Bytes): boolean {
  return first === 0xfe && second === 0xff || first === 0xff && second === 0xfe;
}

function isHtmlType(type: string | null): boolean {
  return type?.startsWith("text/html") ?? false;
}

// Encodings ---------------------------------------------------------------------------------------------------------

/** A content coding (RFC 9110, 8.4.1); identity means none. */
export type Encoding = "br" | "zstd" | "gzip" | "identity";

const HAS_ZSTD = !/^2\.[56]\./.test(Deno.version.deno); // Deno 2.5 and 2.6 declare it, but do not implement it
const zlib = () => globalThis.process.getBuiltinModule("node:zlib"); // takes 10 ms to load

/**
 * All encodings, in the order of preference for clients that have none: the suffix of a precompressed file beside the
 * original, and how to compress content in memory. The server compresses on its only thread: 135 KB of script take
 * 0.5 ms with zstd (3.25:1) and 2.6 ms with gzip (2.92:1). Brotli would take 3.3 ms (3.36:1).
 */
const CODECS: Record<Encoding, { suffix: string; compress?: (bytes: Bytes) => Uint8Array }> = {
  br: { suffix: ".br" },
  zstd: { suffix: ".zst", compress: HAS_ZSTD ? (bytes) => zlib().zstdCompressSync(bytes) : undefined },
  gzip: { suffix: ".gz", compress: (bytes) => zlib().gzipSync(bytes) },
  identity: { suffix: "" },
};
const ENCODINGS = Object.keys(CODECS) as Encoding[];
const STREAM_ENCODING = "gzip"; // of large files, which are compressed while they are sent

/** Content types worth compressing; images, video, web fonts and archives are compressed already. */
const COMPRESSIBLE =
  /^(?:text\/|(?:application|image|model)\/(?:[\w.-]+\+)?(?:json|xml|javascript|x-javascript|ecmascript|wasm|x-sh|toml|yaml|sql|graphql|rtf|manifest|x-ndjson|vnd\.ms-fontobject|bmp|x-ms-bmp|vnd\.microsoft\.icon)|font\/(?:ttf|otf|collection))/;

const COMPRESSED_SIZE = 1024; // bytes; smaller bodies are not compressed: they fit into one packet
const YIELD_SIZE = 256 << 10; // bytes to compress before yielding to other requests
const START_SIZE = 64 << 10; // bytes that take as long to compress as a compressor takes to start
const MISSING_TIME = 1000; // ms for which a missing precompressed file is not looked for again
const REPRESENTATION_SIZE = 8 << 10; // bytes of a representation in memory, beside its body

/** A body and its headers (RFC 9110, 3.2). */
interface Representation {
  readonly full: Response; // without a body if that is on the disk; clone it, which is faster than to create a response
  readonly size: number; // bytes of the body in memory or on the disk
  readonly isOnDisk: boolean; // whether the body has to be read from the file
  readonly entry?: Entry; // the file that was read; undefined for generated content
  readonly encoding: Encoding;
  readonly isEncodable?: boolean; // whether its type may be sent in another encoding
  readonly isStreamed?: boolean; // whether the body is compressed while it is sent
  notModified?: Response; // kept after the first 304
}

/** What a representation is made from; without `bytes`, the body is on the disk. */
type Source = { type: string; entry?: Entry; encoding?: Encoding; bytes?: Bytes };

/** Yields to the event loop regularly, because compression blocks this thread. */
class Pacer {
  #size = 0; // bytes compressed since the last yield
  #last = Promise.resolve();

  /** Waits if `size` more bytes to compress exceed YIELD_SIZE since the last wait, one caller after another. */
  async wait(size: number): Promise<void> {
    this.#size += size;
    if (this.#size <= YIELD_SIZE) return;
    await (this.#last = this.#last.then(() => delay(0)));
    this.#size = 0;
  }
}

/** Makes the representations of files, and keeps them in the entries. */
class Encodings {
  #lastHeader?: string; // most clients send the same Accept-Encoding
  #lastAccepted: Encoding[] = [];
  #inMemory = new Pacer(); // small bodies do not wait for streams
  #streams = new Pacer();

  /** `isEncodable` can exclude content types from compression. */
  constructor(
    private readonly files: Files,
    private readonly responses: Responses,
    private readonly isEncodable: (type: string) => boolean,
    private readonly options: Pick<Options, "maxAge" | "now">,
  ) {}

  /** Returns the representation of a file in the best encoding that the client accepts and the file can have. */
  async select(entry: Entry, request: Headers): Promise<Representation> {
    return await this.encode(await this.#share(entry, "identity", () => this.#load(entry)), request);
  }

  /** Returns an unencoded representation in the best encoding that the client accepts. */
  async encode(plain: Representation, request: Headers): Promise<Representation> {
    const { entry, size, isOnDisk } = plain;
    const accepted = plain.isEncodable ? request.get("accept-encoding") : null;
    if (accepted === null || entry !== undefined && !mayEncode(request)) return plain; // generated content has no ranges
    if (accepted !== this.#lastHeader) [this.#lastHeader, this.#lastAccepted] = [accepted, acceptedEncodings(accepted)];
    for (const encoding of this.#lastAccepted) {
      if (encoding === "identity") break;
      const precompressed = entry && await this.#loadPrecompressed(entry, encoding, plain.full);
      if (precompressed !== undefined) return precompressed;
      const canCompress = isOnDisk ? encoding === STREAM_ENCODING : CODECS[encoding].compress !== undefined;
      if (!canCompress || size < COMPRESSED_SIZE) continue;
      if (isOnDisk) await this.#streams.wait(START_SIZE); // the response will open the file and start a compressor
      const make = () => this.#compress(plain, encoding);
      return await (entry === undefined ? make() : this.#share(entry, encoding, make));
    }
    return plain;
  }

  /** Makes the representation of a large file again, for a newer version of the file. */
  async update({ full, encoding, isStreamed }: Representation, entry: Entry): Promise<Representation> {
    const type = full.headers.get("content-type")!;
    const plain = this.describe({ type, entry, encoding: isStreamed ? "identity" : encoding });
    const newer = isStreamed ? await this.#compress(plain, encoding) : plain;
    return full.status === 404 ? await asNotFound(newer) : newer;
  }

  /** Returns the kept representation of an entry, or makes it. Simultaneous requests share it. */
  #share(entry: Entry, encoding: Encoding, make: () => Promise<Representation>): Promise<Representation> {
    const kept = entry.representations.get(encoding);
    if (kept !== undefined) return kept;
    const made = make();
    entry.representations.set(encoding, made);
    const forget = () => void entry.representations.delete(encoding);
    made.then(({ entry: current, size, isOnDisk }) => {
      if (current !== entry) return forget(); // the file changed before it was read
      this.files.addSize(entry, REPRESENTATION_SIZE + (isOnDisk ? 0 : size));
    }, forget);
    return made;
  }

  /** Makes the representation of a file. A precompressed file has an encoding, and the type of its original. */
  async #load(known: Entry, encoding?: Encoding, originalType?: string): Promise<Representation> {
    const { entry, bytes } = this.files.readNow(known) ?? await this.files.read(known);
    const type = originalType ?? await this.files.typeOf(entry, bytes);
    return this.describe({ type, entry, encoding, bytes: bytes.length < entry.size ? undefined : bytes });
  }

  /** Makes the representation of a file or of generated content; without `bytes`, the body is on the disk. */
  describe({ type, entry, bytes, encoding = "identity" }: Source): Representation {
    const size = entry?.size ?? bytes!.length;
    const headers = new Headers({ "content-type": type, "content-length": `${size}` });
    if (entry === undefined) headers.set("vary", "Accept"); // a listing may be a page or JSON
    const isEncodable = COMPRESSIBLE.test(type) && this.isEncodable(type);
    if (isEncodable) headers.append("vary", "Accept-Encoding");
    if (encoding !== "identity") headers.set("content-encoding", encoding);
    else if (entry !== undefined) headers.set("accept-ranges", "bytes");
    if (entry !== undefined) setValidators(headers, entry, bytes);
    const isRevalidated = entry === undefined || isHtmlType(type);
    this.responses.addCommonHeaders(headers, isRevalidated ? 0 : this.options.maxAge);
    const isOnDisk = bytes === undefined;
    return { full: new Response(bytes, { headers }), size, isOnDisk, entry, encoding, isEncodable };
  }

  /** Compresses a representation; returns it unchanged if that makes it no smaller. */
  async #compress(plain: Representation, encoding: Encoding): Promise<Representation> {
    const { full, size, isOnDisk, entry } = plain;
    const headers = new Headers(full.headers);
    const tag = headers.get("etag");
    if (tag !== null) headers.set("etag", `W/${tag}`); // the bytes differ, and depend on the version of the compressor
    headers.set("content-encoding", encoding);
    for (const name of ["accept-ranges", "content-length"]) headers.delete(name);
    this.responses.addCommonHeaders(headers);
    if (isOnDisk) return { full: new Response(null, { headers }), size, isOnDisk, entry, encoding, isStreamed: true };
    await this.#inMemory.wait(size);
    const bytes = new Uint8Array(CODECS[encoding].compress!(await full.clone().bytes()));
    if (bytes.length >= size) return plain;
    headers.set("content-length", `${bytes.length}`);
    return { full: new Response(bytes, { headers }), size: bytes.length, isOnDisk, entry, encoding };
  }

  /** Compresses the body of a large file while it is sent. */
  stream(body: ReadableStream<Bytes>, size: number): ReadableStream<Bytes> {
    const exact = body.pipeThrough(exactly(size, (size) => this.#streams.wait(size)));
    return exact.pipeThrough(new CompressionStream(STREAM_ENCODING));
  }

  /** Returns the representation in a precompressed file beside the original, if there is one and it is not older. */
  async #loadPrecompressed(entry: Entry, encoding: Encoding, original: Response) {
    if ((entry.missingUntil.get(encoding) ?? 0) > this.options.now()) return undefined;
    try {
      const found = this.files.look(append(entry.path, CODECS[encoding].suffix));
      if (found?.isFile && found.mtime >= entry.mtime) {
        const type = original.headers.get("content-type")!;
        return await this.#share(found, encoding, () => this.#load(found, encoding, type));
      }
    } catch (error) {
      if (statusOf(error) >= 500) throw error; // an unreadable file counts as missing
    }
    entry.missingUntil.set(encoding, this.options.now() + MISSING_TIME);
    return undefined;
  }
}

/**
 * Reports whether a request may get an encoded response. Ranges and `If-Match` refer to the unencoded bytes. But a date
 * in `If-Range` may mean a part in any encoding: the encoding is negotiated, and only an unencoded file has ranges.
 */
function mayEncode(request: Headers): boolean {
  if (request.has("if-match")) return false;
  return !request.has("range") || !Number.isNaN(parseDate(request.get("if-range")));
}

/** Returns the encodings that a client accepts, by q-value, then by the server's preference (RFC 9110, 12.5.3). */
export function acceptedEncodings(header: string): Encoding[] {
  const weights = new Map<string, number>();
  // Strip white space first: optional white space in the pattern could backtrack quadratically.
  for (const item of header.toLowerCase().replace(/\s+/g, "").split(",")) {
    const [, coding, weight = "1"] = /^([^;]+)(?:;q=([01](?:\.\d{0,3})?))?$/.exec(item) ?? [];
    if (coding !== undefined) weights.set(coding.replace(/^x-(?=gzip$)/, ""), Number(weight));
  }
  // identity is implied, with the lowest weight.
  const weightOf = (encoding: Encoding) =>
    weights.get(encoding) ?? weights.get("*") ?? (encoding === "identity" ? Number.MIN_VALUE : 0);
  return ENCODINGS.filter((encoding) => weightOf(encoding) > 0).sort((a, b) => weightOf(b) - weightOf(a));
}

// Conditions --------------------------------------------------------------------------------------------------------

/** Sets ETag and Last-Modified (RFC 9110, 8.8). A file that is not settled gets only a tag, of its bytes. */
function setValidators(headers: Headers, { size, mtime, ctime, isSettled, hasUsableDate }: Entry, bytes?: Bytes): void {
  if (bytes !== undefined || isSettled) headers.set("etag", strongTag(bytes ?? `${size} ${mtime} ${ctime}`));
  if (isSettled && hasUsableDate) headers.set("last-modified", new Date(mtime).toUTCString());
}

/** Returns a strong tag. `eTag` of std takes ten times longer, because Web Crypto hashes in another thread. */
function strongTag(content: Bytes | string): string {
  return `"${nodeCrypto.createHash("sha256").update(content).digest("base64url").slice(0, 27)}"`;
}

/** Returns 304, 412 or 416, a byte range, or undefined for the full response. */
function selectPart({ method, headers }: Request, { full, size, entry, encoding }: Representation) {
  if (full.status !== 200) return undefined; // conditions and ranges need a 200 (RFC 9110, 13.2.1 and 14.2)
  const validators = full.headers;
  const outcome = evaluatePreconditions(headers, validators);
  if (outcome !== 200) return outcome;
  // Only GET has ranges (14.2), and only of unencoded files.
  if (method !== "GET" || entry === undefined || encoding !== "identity") return undefined;
  const ifRange = headers.get("if-range"); // 13.1.5: the current tag, which is strong, or the exact date
  const isCurrentPart = ifRange === null || ifRange === validators.get("etag") ||
    parseDate(ifRange) === parseDate(validators.get("last-modified"));
  return isCurrentPart ? parseRange(headers.get("range"), size) : undefined;
}

/** An HTTP-date in any of its three forms (RFC 9110, 5.6.7); `Date.parse` is laxer. */
const HTTP_DATE =
  /^[A-Z][a-z]{2,8}(?:, \d\d[ -][A-Z][a-z]{2}[ -](?:\d\d){1,2} \d\d:\d\d:\d\d GMT| [A-Z][a-z]{2} [ \d]\d \d\d:\d\d:\d\d \d{4})$/;

/** Returns the time of an HTTP-date in milliseconds; NaN, which equals nothing, if it is malformed. */
function parseDate(value: string | null): number {
  if (value === null || !HTTP_DATE.test(value)) return NaN;
  return Date.parse(value.endsWith("GMT") ? value : `${value} GMT`);
}

/** Evaluates the conditional headers of a request against the validators of the 200 response (RFC 9110, 13.2.2). */
export function evaluatePreconditions(request: Headers, validators: Headers): 200 | 304 | 412 {
  const tag = validators.get("etag") ?? undefined;
  const lastModified = () => parseDate(validators.get("last-modified"));
  // Strip white space, on which the split of std takes quadratic time. Tags contain none.
  const tagsOf = (name: string) => request.get(name)?.replace(/\s+/g, "");
  const ifMatchTags = tagsOf("if-match");
  const unmodifiedSince = request.get("if-unmodified-since");
  if (ifMatchTags !== undefined && ifMatchTags !== "*" && !ifMatch(ifMatchTags, tag)) return 412;
  if (ifMatchTags === undefined && unmodifiedSince !== null && lastModified() > parseDate(unmodifiedSince)) return 412;
  const ifNoneMatchTags = tagsOf("if-none-match");
  if (ifNoneMatchTags !== undefined) {
    const isMatch = ifNoneMatchTags === "*" || !ifNoneMatch(ifNoneMatchTags, tag);
    return isMatch ? 304 : 200;
  }
  const modifiedSince = request.get("if-modified-since");
  return modifiedSince !== null && lastModified() <= parseDate(modifiedSince) ? 304 : 200;
}

/** Returns the range in a Range header (RFC 9110, 14.1.2), 416 if it is past the end, undefined for a full response. */
export function parseRange(header: string | null, size: number): ByteRange | 416 | undefined {
  const [, first, last] = /^bytes=(\d*)-(\d*)$/i.exec(header ?? "") ?? [];
  if (!first && !last || size === 0) return undefined;
  if (first && last && Number(first) > Number(last)) return undefined;
  const start = first ? Number(first) : Math.max(0, size - Number(last));
  const end = first && last ? Math.min(Number(last), size - 1) : size - 1;
  return start > end ? 416 : { start, end };
}

// Listing -----------------------------------------------------------------------------------------------------------

/** A row of a listing; size in bytes, 0 for folders, and mtime in milliseconds. */
type ListedEntry = { name: string; isFile: boolean; size: number; mtime: number };

type Compare = (one: ListedEntry, other: ListedEntry) => number;
let loadedCollator: Intl.Collator | undefined;
const collator = () => loadedCollator ??= new Intl.Collator("en", { numeric: true }); // takes 10 ms the first time
const compareNames: Compare = (one, other) => collator().compare(one.name, other.name); // `file9` before `file10`

/** The columns of a listing, each with its two orders, the default first. */
const COLUMNS: Record<string, { label: string; orders: [string, string]; compare: Compare }> = {
  name: { label: "Name", orders: ["asc", "desc"], compare: compareNames },
  size: { label: "Size", orders: ["desc", "asc"], compare: (one, other) => one.size - other.size },
  time: { label: "Modified", orders: ["desc", "asc"], compare: (one, other) => one.mtime - other.mtime },
};

/** The query of a listing: `sort` is a column, `order` is "asc" or "desc", `q` filters, `view` is "grid" or empty. */
type Query = { sort: string; order: string; q: string; view: string };

const BATCH = 250; // names to handle before yielding to other requests
const FILTER_LENGTH = 1024; // characters; normalizing a longer filter could block the server

/** Lists folders: as a page, or as JSON for clients that prefer it. */
class Listings {
  #inProgress = new Map<string, Promise<Representation>>();
  #last?: { id: string; representation: Representation };

  constructor(private readonly files: Files, private readonly encodings: Encodings) {}

  /** Returns the listing of a folder. Simultaneous requests for the same listing share it. */
  render(folder: Entry, request: Request, query: string): Promise<Representation> {
    const { path, mtime, ctime } = folder;
    const { headers } = request;
    const key = JSON.stringify([path, mtime, ctime, query, headers.get("accept"), headers.get("accept-encoding")]);
    const known = this.#inProgress.get(key);
    if (known !== undefined) return known;
    const promise = this.#render(folder, request, parseQuery(query)).finally(() => this.#inProgress.delete(key));
    this.#inProgress.set(key, promise);
    return promise;
  }

  /** Makes a listing. If it equals the last one, it shares its bytes, because slow clients keep them in memory. */
  async #render(folder: Entry, request: Request, query: Query): Promise<Representation> {
    const isJson = accepts(request, "text/html", "application/json") === "application/json";
    const bytes = await this.#renderBytes(folder, query, isJson);
    const id = `${strongTag(bytes)} ${acceptedEncodings(request.headers.get("accept-encoding") ?? "")}`;
    if (this.#last?.id === id) return this.#last.representation;
    const type = `${isJson ? "application/json" : "text/html"}; charset=UTF-8`;
    const representation = await this.encodings.encode(this.encodings.describe({ type, bytes }), request.headers);
    this.#last = { id, representation };
    return representation;
  }

  async #renderBytes(folder: Entry, query: Query, isJson: boolean): Promise<Bytes> {
    const filter = normalizeForSearch(query.q);
    const compare = compareBy(query);
    const entries = await inBatches(this.files.list(folder), (batch) => {
      const matching = batch.filter(({ name }) => normalizeForSearch(name).includes(filter));
      const listed = matching.map((name) => this.files.statEntry(folder, name)).filter((entry) => entry !== undefined);
      return listed.sort(compare); // sorted parts speed up the final sort
    });
    entries.sort(compare);
    const render = isJson ? renderJsonItem : (entry: ListedEntry) => renderRow(entry, query);
    const rows = (await inBatches(entries, (batch) => [batch.map(render).join("")])).join("");
    const names = [basename(this.files.root) || "/", ...folder.path.split("/").filter(Boolean)];
    return new TextEncoder().encode(isJson ? `[${rows.slice(1)}\n]\n` : renderPage(entries, rows, names, query));
  }
}

/** Handles items in batches and yields to other requests in between. */
async function inBatches<T, Result>(items: Iterable<T> | AsyncIterable<T>, handle: (batch: T[]) => Result[]) {
  const results: Result[] = [];
  let batch: T[] = [];
  for await (const item of items) {
    if (batch.push(item) < BATCH) continue;
    results.push(...handle(batch));
    batch = [];
    await delay(0);
  }
  results.push(...handle(batch));
  return results;
}

function parseQuery(text: string): Query {
  const params = new URLSearchParams(text);
  const choose = (name: string, values: string[]) => values.find((value) => value === params.get(name)) ?? values[0]!;
  const sort = choose("sort", Object.keys(COLUMNS));
  const order = choose("order", COLUMNS[sort]!.orders);
  return { sort, order, q: (params.get("q") ?? "").slice(0, FILTER_LENGTH), view: choose("view", ["", "grid"]) };
}

/** Returns the order of a listing: folders first, then by the column, then by name. */
function compareBy({ sort, order }: Query): Compare {
  const { compare } = COLUMNS[sort]!;
  const sign = order === "asc" ? 1 : -1;
  return (one, other) =>
    Number(one.isFile) - Number(other.isFile) || sign * compare(one, other) || compareNames(one, other);
}

/** Ignores case and how accents are composed; `normalize` in the script of the page does the same. */
function normalizeForSearch(text: string): string {
  return text.normalize("NFD").toLowerCase();
}

/** Renders an item in the format of nginx's `autoindex_format json`, after a comma. */
function renderJsonItem({ name, isFile, size, mtime }: ListedEntry): string {
  const item = { name, type: isFile ? "file" : "directory", mtime: new Date(mtime).toUTCString() };
  return `,\n${JSON.stringify(isFile ? { ...item, size } : item)}`;
}

/** Kinds of files by extension. Each kind has an icon, and the grid previews pictures and videos. */
const KINDS = {
  picture: "apng avif bmp gif ico jpeg jpg jxl png svg webp",
  video: "avi m4v mkv mov mp4 mpeg mpg ogv webm",
  sound: "aac aiff flac m4a mid mp3 oga ogg opus wav wma",
  archive: "7z apk br bz2 deb dmg gz iso jar rar rpm tar tgz xz zip zst",
  document: "csv doc docx epub md odp ods odt pdf ppt pptx rtf tex tsv txt xls xlsx",
  code:
    "c cpp cs css go h html java js json jsx kt lua mjs php pl py rb rs scss sh sql swift toml ts tsx vue xml yaml yml",
};
const KIND_OF = new Map(
  Object.entries(KINDS).flatMap(([kind, extensions]) => extensions.split(" ").map((name) => [`.${name}`, kind])),
);

/** The icon of each kind as an SVG path in a square of 20 pixels. As clip paths, they need no request. */
const FILE_ICON = "M6 2h5.5L16 6.5V16a2 2 0 0 1-2 2H6a2 2 0 0 1-2-2V4a2 2 0 0 1 2-2zM5.5 3.5v13h9V8h-4V3.5z";
const FRAME_ICON = "M4 3h12a2 2 0 0 1 2 2v10a2 2 0 0 1-2 2H4a2 2 0 0 1-2-2V5a2 2 0 0 1 2-2zM3.5 4.5v11h13v-11z";
const ICONS = {
  folder: "M4 3.5h3.6a2 2 0 0 1 1.4.6l1.4 1.4H16a2 2 0 0 1 2 2V15a2 2 0 0 1-2 2H4a2 2 0 0 1-2-2V5.5a2 2 0 0 1 2-2z",
  picture: `${FRAME_ICON}M5 14l3-4 2 2.5 2-2 3 3.5zM6 6.5h2v2H6z`,
  video: `${FRAME_ICON}M8 7v6l5-3z`,
  sound: "M7 4.5 16 3v10.5a2.5 2.5 0 1 1-1.5-2.3V6.5l-6 1v7.5A2.5 2.5 0 1 1 7 12.7z",
  archive: "M2.5 3h15v5H17v9H3V8h-.5zM4 4.5v2h12v-2zM4.5 8v7.5h11V8zM8 9.5h4V11H8z",
  document: `${FILE_ICON}M7 10.5h6V12H7zM7 13.5h6V15H7z`,
  code: "M7 5 2 10l5 5 1.1-1.1L4.2 10l3.9-3.9zM13 5l5 5-5 5-1.1-1.1 3.9-3.9-3.9-3.9z",
};
const ICON_STYLE = Object.entries(ICONS).map(([kind, path]) => `.${kind} a { --icon: path(evenodd, "${path}") }`);

/** The style of a listing, added to that of all pages. */
const PAGE_STYLE = `body { max-width: 64rem }
header, form { display: flex; flex-wrap: wrap; align-items: baseline; gap: .75rem }
header a { text-align: center }
h1 { flex: 3 12rem; margin: 0; font-size: 1.25rem }
h1 a { display: inline-block; margin: 1px 0; padding: 0 .5rem; border-radius: .5rem; background: var(--hover) }
h1 a, th { font-weight: normal }
form { flex: 1 20rem }
input { flex: 1; min-width: 0; background: none; color: inherit; font: inherit }
input, header > a, form a { padding: .375rem .75rem; border: 1px solid var(--edge); border-radius: .5rem }
table, thead, tbody { display: block }
table { margin: 0 -.75rem }
tr { display: grid; grid-template-columns: 1fr minmax(auto, 7rem) minmax(auto, 10rem); align-items: baseline }
tr { position: relative; container-type: inline-size; border-bottom: 1px solid var(--line) }
tbody tr:hover { background: var(--hover) }
th, td { padding: 0; text-align: left }
th a { display: inline-block; padding: .5rem .75rem; white-space: nowrap }
th ~ th, td ~ td { text-align: right }
td ~ td { padding: 0 .75rem; white-space: nowrap; font-variant-numeric: tabular-nums }
th, td ~ td, p { font-size: .875rem }
th a, td ~ td, p, ::placeholder { color: var(--muted) }
td a, [aria-sort] a { color: var(--text) }
[aria-sort=ascending] a::after { content: " \\2191" / "" }
[aria-sort=descending] a::after { content: " \\2193" / "" }
td a { display: flex; gap: .75rem; padding: .5rem .75rem; outline-offset: -2px; --icon: path(evenodd, "${FILE_ICON}") }
td a > bdi { align-self: baseline; min-width: 0; white-space: pre-wrap }
td a::before, img::before { content: ""; flex: none; width: 20px; height: 20px; margin-top: 2px }
td a::before, img::before { background: var(--muted); clip-path: var(--icon) }
.folder a::before { background: light-dark(#3d8bdf, #5ea4ec) }
${ICON_STYLE.join("\n")}
bdi bdi::before { content: attr(title); padding: 0 .25em; border: 1px solid; border-radius: .25em; font-size: .75em }
[hidden] { display: none !important }
@container (max-width: 36rem) {
td { grid-column: 1 / -1 }
td ~ td { grid-row: 2; margin-top: -.375rem; padding-bottom: .5rem }
td ~ td + td { padding-left: 2.75rem; text-align: left }
td a::after { content: ""; position: absolute; inset: 0 } /* the whole row is the link */
}
.grid { max-width: none }
.grid tbody { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(11rem, 45%), 1fr)) }
.grid tbody { gap: .75rem; margin: .75rem }
.grid tbody tr { grid-template-columns: 1fr; align-content: start; overflow: hidden }
.grid tbody tr { border: 0; border-radius: .5rem; background: var(--hover) }
.grid td a { padding-top: calc(75% + .5rem) } /* below a preview of 4 to 3 with an icon in the middle */
.grid td a::before, img::before { position: absolute; z-index: 1; top: 0; left: 50%; scale: 2.5 }
.grid td a::before, img::before { margin: calc(37.5% - 10px) -10px }
.grid img::after { content: ""; position: absolute; inset: 0; background: var(--hover) } /* of a broken picture */
.grid img, .grid video { position: absolute; top: 0; left: 0; width: 100%; aspect-ratio: 4 / 3; object-fit: contain }
.grid .picture a::before { display: none }
.grid .video a::before { content: "\\25b6\\fe0e" / ""; clip-path: circle(); background: #000a; color: #fff }
.grid .video a::before { font: .625rem/20px system-ui; text-align: center }
.grid td ~ td { font-size: .75rem }
.grid td ~ td + td { padding-left: .75rem }`;

/** Filters the listing while the user types. Without it, or if a policy blocks it, Enter submits the form. */
const PAGE_SCRIPT = `
const [input, status, all] = ["input", "[role=status]", "p a"].map((one) => document.querySelector(one));
const rows = [...document.querySelectorAll("tbody tr")];
const summary = status.textContent;
const normalize = (text) => text.normalize("NFD").toLowerCase();
let timer;
input.oninput = () => {
  clearTimeout(timer);
  if (input.defaultValue !== "") return timer = setTimeout(() => input.form.submit(), 300); // rows are missing
  const filter = normalize(input.value);
  for (const row of rows) row.hidden = !normalize(row.querySelector("a").textContent).includes(filter);
  const count = rows.filter((row) => !row.hidden).length;
  const text = count ? count + " of " + rows.length + " names" : "No names contain \\u201c" + input.value + "\\u201d.";
  status.textContent = filter === "" ? summary : text;
  all.hidden = filter === "";
};
`;

/** Renders the page. It works without its script and style, which a strict content-security policy removes. */
function renderPage(entries: ListedEntry[], rows: string, names: string[], query: Query): string {
  const crumbs = names.map((name, index) => {
    const up = "../".repeat(names.length - 1 - index);
    return up === "" ? nameHtml(name) : `<a href="${folderUrl(up, query)}">${nameHtml(name)}</a>`;
  });
  const parent = names.length > 1
    ? `<a href="${folderUrl("../", query)}" rel="up" aria-label="Parent folder">&uarr;</a>`
    : "";
  const all = `<a href="${urlOf({ ...query, q: "" })}"${query.q === "" ? " hidden" : ""}>Show all</a>`;
  const isEmpty = entries.length === 0 && query.q === "";
  const table = `<table><thead><tr>${renderColumns(query)}</thead><tbody>\n${rows}</tbody></table>\n`;
  return `${pageHead(escapeHtml(names.at(-1)!), PAGE_STYLE)}<body class="${query.view}">
<header>${parent}<h1>${crumbs.join(" / ")}</h1>${isEmpty ? "" : renderForm(query)}</header>
<p><span role="status">${summarize(entries, query.q)}</span> ${all}</p>
${isEmpty ? "" : `${table}<script type="module">${PAGE_SCRIPT}</script>\n`}`;
}

function renderForm(query: Query): string {
  const hidden = paramsOf({ ...query, q: "" })
    .map(([name, value]) => `<input type="hidden" name="${name}" value="${value}">`);
  const filter = `name="q" value="${escapeHtml(query.q)}"${query.q && " autofocus"}`;
  const [view, label] = query.view === "" ? ["grid", "Grid"] : ["", "List"];
  return `
<form><input type="search" ${filter} placeholder="Filter" aria-label="Filter by name" autocomplete="off">
${hidden.join("")}<a href="${urlOf({ ...query, view })}">${label}</a></form>
`;
}

function renderColumns(query: Query): string {
  const columns = Object.entries(COLUMNS).map(([sort, { label, orders }]) => {
    const isSorted = sort === query.sort;
    const order = isSorted && query.order === orders[0] ? orders[1] : orders[0];
    const url = urlOf({ ...query, sort, order });
    return `<th${isSorted ? ` aria-sort="${query.order}ending"` : ""}><a href="${url}">${label}</a>`;
  });
  return columns.join("");
}

/** Returns the URL of a query as HTML. */
function urlOf(query: Query): string {
  return escapeHtml(`?${new URLSearchParams(paramsOf(query))}`);
}

function paramsOf(query: Query): [string, string][] {
  return Object.entries(query).filter(([, value]) => value !== "");
}

/** Returns the URL of another folder, in which the grid stays on. */
function folderUrl(path: string, { view }: Query): string {
  return view === "" ? path : `${path}?view=${view}`;
}

/** Returns the numbers of folders and files in a listing, and the size of the files. */
function summarize(entries: ListedEntry[], filter: string): string {
  if (entries.length === 0) {
    return filter ? `No names contain \u201c${nameHtml(filter)}\u201d.` : "This folder is empty.";
  }
  const files = entries.filter(({ isFile }) => isFile);
  const count = (number: number, noun: string) => number === 0 ? "" : `${number} ${noun}${number === 1 ? "" : "s"}`;
  const size = files.length === 0 ? "" : formatSize(files.reduce((sum, { size }) => sum + size, 0));
  return [count(entries.length - files.length, "folder"), count(files.length, "file"), size].filter(Boolean).join(", ");
}

function renderRow({ name, isFile, size, mtime }: ListedEntry, query: Query): string {
  const isGrid = query.view === "grid";
  const kind = isFile ? KIND_OF.get(extname(name).toLowerCase()) : "folder";
  const url = escapeHtml((name.includes(":") ? "./" : "") + encodePath(name)); // `a:b` has a scheme (RFC 3986, 4.2)
  const target = isFile ? url : folderUrl(`${url}/`, query);
  const link = `<a href="${target}">${isGrid ? renderPreview(url, kind) : ""}${nameHtml(name)}</a>`;
  const time = isGrid ? formatTime(mtime).slice(0, 10) : formatTime(mtime);
  return `<tr${kind ? ` class=${kind}` : ""}><td>${link}<td>${isFile ? formatSize(size) : ""}<td>${time}\n`;
}

function renderPreview(url: string, kind?: string): string {
  if (kind === "picture") return `<img loading="lazy" src="${url}" alt="">`;
  return kind === "video" ? `<video preload="metadata" muted src="${url}#t=.001"></video>` : "";
}

/** Returns a name as HTML. Bidirectional controls could disguise an extension: the style shows the code of each. */
function nameHtml(name: string): string {
  const html = escapeHtml(name).replace(/\p{Bidi_C}/gu, (control) => {
    return `<bdi title="U+${control.charCodeAt(0).toString(16).toUpperCase().padStart(4, "0")}">${control}</bdi>`;
  });
  return `<bdi>${html}</bdi>`;
}

/** Formats a time as local date and time, or "" for times before 1970 and after 9999. */
function formatTime(time: number): string {
  const local = new Date(time - new Date(time).getTimezoneOffset() * 60_000); // its UTC fields are the local time
  return time > 0 && local.getUTCFullYear() <= 9999 ? local.toISOString().slice(0, 16).replace("T", " ") : "";
}

function formatSize(bytes: number): string {
  let unit = 0;
  for (; bytes >= (unit === 0 ? 1000 : 999.5) && unit < 4; unit++) bytes /= 1000;
  return `${Number(bytes.toPrecision(3))} ${["B", "kB", "MB", "GB", "TB"][unit]}`;
}

/** Escapes text for HTML; the parser would turn a carriage return into a line feed. */
function escapeHtml(text: string): string {
  return text.replace(/[&<>"\r]/g, (character) => `&#${character.charCodeAt(0)};`);
}

// Responses ---------------------------------------------------------------------------------------------------------

const ALLOW = "GET, HEAD, OPTIONS";
const UNREADABLE =
  "The server may not read this file or folder. Give the user who runs the server permission to read it, " +
  "and make sure that --allow-read includes it.";
const ERROR_STYLE = "body { max-width: 36rem; padding-top: 12vh }";

/** Common headers, and the responses that are not made from a file: errors, redirects and OPTIONS. */
class Responses {
  #kept = new Map<StatusCode, Response>(); // plain-text errors: to clone one is faster than to build it

  constructor(private readonly options: Pick<Options, "base" | "cors" | "headers" | "maxAge">) {
    const { headers, maxAge } = options;
    for (const [name, value] of headers) checkHeader(name, value);
    const isRight = Number.isInteger(maxAge) && maxAge >= 0 && maxAge <= MAX_AGE_LIMIT;
    checkUsage(isRight, `maxAge must be a whole number from 0 to ${MAX_AGE_LIMIT}`);
  }

  /** Adds the headers of every response. The user's own headers come last and win. Idempotent. */
  addCommonHeaders(headers: Headers, maxAge = 0): void {
    const { cors, headers: userHeaders } = this.options;
    headers.set("x-content-type-options", "nosniff");
    // `no-cache` means that browsers may store a response, but must revalidate it.
    if (!headers.has("cache-control")) headers.set("cache-control", maxAge > 0 ? `max-age=${maxAge}` : "no-cache");
    if (cors) {
      headers.set("access-control-allow-origin", "*");
      headers.set("access-control-expose-headers", "*");
    }
    for (const [name] of userHeaders) headers.delete(name);
    for (const [name, value] of userHeaders) headers.append(name, value);
  }

  /** Builds a response that is not made from a file. */
  build(body: string | ReadableStream | null, headers: Record<string, string>, status = 200): Response {
    const response = new Response(body, { status, headers });
    this.addCommonHeaders(response.headers);
    return response;
  }

  /** Builds an error response: a page for clients that prefer HTML, or text. With an explanation, it has no link. */
  fail(request: Request, status: StatusCode, headers?: Record<string, string>, explanation?: string): Response {
    const isPage = status !== 416 && accepts(request, "text/plain", "text/html") === "text/html"; // players get text
    const isReusable = !isPage && headers === undefined && explanation === undefined;
    const kept = isReusable ? this.#kept.get(status) : undefined;
    if (kept !== undefined) return kept.clone();
    const type = isPage ? "text/html" : "text/plain";
    const title = `${status} ${STATUS_TEXT[status]}`;
    const text = explanation ?? (isPage && status === 403 ? UNREADABLE : "");
    const link = isPage && explanation === undefined ? this.#linkToParent(request) : "";
    const body = isPage
      ? `${pageHead(title, ERROR_STYLE)}<h1>${title}</h1>\n${text && `<p>${escapeHtml(text)}</p>\n`}${link}`
      : `${title}\n${text && `${text}\n`}`;
    const length = `${new TextEncoder().encode(body).length}`;
    const defaults = { "content-type": `${type}; charset=UTF-8`, "content-length": length, "vary": "Accept" };
    const response = this.build(body, { ...defaults, ...headers }, status);
    if (isReusable) this.#kept.set(status, response.clone());
    return response;
  }

  /** Returns a link to the folder that contains the target of a request, or to the base if the target is outside it. */
  #linkToParent(request: Request): string {
    const { path } = parseTarget(request, this.options.base);
    if (path === "/") return "";
    const folder = this.options.base + normalize(`${path ?? ""}/../`);
    return `<p>Go to the folder <a href="${escapeHtml(encodePath(folder))}">${nameHtml(folder)}</a></p>\n`;
  }

  /** Builds the 403 for a host that clients on this machine may not use. */
  refuseHost(request: Request, host: string): Response {
    const name = /^[\w.-]+$/.test(host) ? host : "NAME"; // other characters could start another command in the shell
    const text =
      "Requests from this machine must use localhost, an IP address or an allowed name, because any web page " +
      `could point its own name to this machine. To allow this name, start the server with --allow-host ${name}`;
    return this.fail(request, 403, {}, text);
  }

  /** Builds a permanent redirect without a host, so that it can't lead to another site. */
  redirect(path: string, query: string): Response {
    return this.build(null, { location: encodePath(this.options.base + path) + toAscii(query) }, 301);
  }

  isPreflight({ method, headers }: Request): boolean {
    return this.options.cors && method === "OPTIONS" && headers.has("access-control-request-method");
  }

  /** Builds the response to OPTIONS, including CORS preflights (RFC 9110, 9.3.7; Fetch standard, 3.3). */
  allow(request: Request): Response {
    if (!this.isPreflight(request)) return this.build(null, { allow: ALLOW }, 204);
    const isForPrivateNetwork = request.headers.get("access-control-request-private-network") === "true";
    return this.build(null, {
      "allow": ALLOW,
      "access-control-allow-methods": ALLOW,
      // Repeat the requested names: `*` would not include Authorization.
      "access-control-allow-headers": request.headers.get("access-control-request-headers") ?? "*",
      "access-control-max-age": "86400", // seconds; browsers cap it at a day or less
      ...isForPrivateNetwork && { "access-control-allow-private-network": "true" },
    }, 204);
  }
}

const MAX_AGE_LIMIT = 2 ** 31; // seconds (RFC 9111, 1.2.2)

/** Checks a header that the user adds (RFC 9110, 5.1 and 5.5). Deno aborts on some values that `Headers` accepts. */
function checkHeader(name: string, value: string): void {
  checkUsage(/^[\w!#$%&'*+.^`|~-]+$/.test(name), `no header can have the name ${JSON.stringify(name)}`);
  checkUsage(/^[\t\x20-\x7e\x80-\xff]*$/.test(value), `the header ${name} needs a valid value`);
  checkUsage(!/^(?:content-length|transfer-encoding)$/i.test(name), `the header ${name} is set by the server`);
}

/** The sections that {@linkcode send} uses. */
type Services = { files: Files; encodings: Encodings; responses: Responses };

/** Builds the response to a request for a representation: the full one, a range, 304, 412 or 416. */
async function send(request: Request, selected: Representation, services: Services): Promise<Response> {
  const { responses } = services;
  const { full, size, isOnDisk } = selected;
  const part = selectPart(request, selected);
  if (part === 304) return (selected.notModified ??= notModified(full, responses)).clone();
  if (part === 412) return responses.fail(request, 412);
  if (part === 416) return responses.fail(request, 416, { "content-range": `bytes */${size}` });
  if (isOnDisk) return await sendFromDisk(request, selected, services);
  if (part === undefined) return full.clone();
  return partial(selected, part, (await full.clone().bytes()).subarray(part.start, part.end + 1));
}

/** Returns a 304 with all headers except those that describe the body (RFC 9110, 15.4.5). */
function notModified(full: Response, responses: Responses): Response {
  const response = new Response(null, { status: 304, headers: full.headers });
  for (const name of ["content-type", "content-length", "content-encoding", "accept-ranges"]) {
    response.headers.delete(name);
  }
  responses.addCommonHeaders(response.headers);
  return response;
}

/** Returns a page as a 404, without the headers that only a 200 has. */
async function asNotFound(page: Representation): Promise<Representation> {
  const { full, isOnDisk } = page;
  const notFound = new Response(isOnDisk ? null : await full.clone().bytes(), { status: 404, headers: full.headers });
  for (const name of ["accept-ranges", "last-modified", "etag"]) notFound.headers.delete(name);
  return { ...page, full: notFound };
}

/** Builds the response with a body on the disk, or a range of it. */
async function sendFromDisk(request: Request, selected: Representation, services: Services) {
  const { files, encodings } = services;
  const entry = selected.entry!;
  if (request.method === "HEAD") return new Response(new Blob().stream(), selected.full);
  // If the file grows, HTTP/1 under Deno.serve cuts the body to Content-Length. HTTP/2 (no Host header) fails instead.
  const mustCut = request.url.startsWith("https:") || !request.headers.has("host");
  const build = (representation: Representation, body: ReadableStream<Bytes>, part?: ByteRange) => {
    const { full, size, isStreamed } = representation;
    if (isStreamed) return new Response(encodings.stream(body, size), full);
    const { start, end } = part ?? { start: 0, end: size - 1 };
    const exact = mustCut ? body.pipeThrough(exactly(end - start + 1)) : body;
    return part === undefined ? new Response(exact, full) : partial(representation, part, exact);
  };
  const whole = request.headers.has("range") ? undefined : await files.serve(entry);
  if (whole !== undefined) return build(selected, whole);
  const { file, entry: current } = await files.open(entry);
  const newest = current === entry ? selected : await encodings.update(selected, current);
  const part = selectPart(request, newest); // again, because the file may have changed since it was looked up
  if (typeof part === "number") {
    file.close();
    return await send(request, newest, services);
  }
  file.seekSync(part?.start ?? 0, Deno.SeekMode.Start);
  return build(newest, file.readable, part);
}

/** Builds the response with a range of the body (RFC 9110, 15.3.7). */
function partial({ full, size }: Representation, { start, end }: ByteRange, body: BodyInit): Response {
  const part = new Response(body, { status: 206, headers: full.headers });
  part.headers.set("content-range", `bytes ${start}-${end}/${size}`);
  part.headers.set("content-length", `${end - start + 1}`);
  return part;
}

/** Builds the response to HEAD (RFC 9110, 9.3.2). */
function withoutBody(response: Response): Response {
  if (response.body === null) return response;
  response.body.cancel();
  // Without a Content-Length, Deno would add `Content-Length: 0` to a null body, but not to an empty stream.
  return new Response(response.headers.has("content-length") ? null : new Blob().stream(), response);
}

/** The style of all pages. Text has a contrast of at least 4.5:1, icons and borders 3:1 (WCAG 2.2, 1.4). */
const BASE_STYLE = `:root {
color-scheme: light dark; font: 1rem/1.5 system-ui, sans-serif; background: light-dark(#fff, #101418); color: var(--text);
--text: light-dark(#1c2126, #e3e8ee); --muted: light-dark(#5c656f, #98a2ae); --link: light-dark(#0a58ca, #7fb4ff);
--edge: light-dark(#868e98, #6b7580); --line: light-dark(#e3e7eb, #262c33); --hover: light-dark(#f2f4f7, #1b2128) }
body { margin: 0 auto; padding: min(1.5rem, 4vw); overflow-wrap: anywhere }
a { color: var(--link); text-decoration: none }
a:hover { text-decoration: underline }
:focus-visible { outline: 2px solid var(--link); outline-offset: 1px }
@media (pointer: coarse) {
a, input { display: inline-block; box-sizing: border-box; min-width: 2.75rem; min-height: 2.75rem; align-content: center }
}`;

/** Returns the start of a page; `style` is added to the style of all pages. */
function pageHead(title: string, style: string): string {
  return `<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<link rel="icon" href="data:,">
<title>${title}</title>
<style>${BASE_STYLE}
${style}</style>
`;
}

/** The status for each file system error, by its name or code. Link loops and impossible names count as missing. */
const ERROR_STATUS: [StatusCode, RegExp][] = [
  [404, /^(?:NotFound|ENOENT|NotADirectory|FilesystemLoop|ELOOP|ENAMETOOLONG|InvalidData|IsADirectory)$/],
  [403, /^(?:PermissionDenied|EACCES|NotCapable)$/],
  [503, /^(?:EMFILE|ENFILE|Busy|EBUSY)$/],
];

function statusOf(error: unknown): StatusCode {
  const { name = "", code = "" } = error as { name?: string; code?: string };
  return ERROR_STATUS.find(([, errors]) => errors.test(name) || errors.test(code))?.[0] ?? 500;
}

function delay(milliseconds: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, milliseconds));
}

/** Returns the first line of the message of an error, without the system call and the final period. */
function errorMessage(error: unknown): string {
  return (error as Error).message.replace(/(?:: \w+ '[^']*')?\.?(\n.*)?$/s, "");
}

/** Writes a line to stderr. */
function logError(text: string): void {
  writeLater(Deno.stderr, `http-server: ${text}`);
}

/** Writes a line without waiting for its reader, and ignores errors: a stalled or closed terminal must stop nothing. */
function writeLater(output: { write(bytes: Uint8Array): Promise<number> }, line: string): void {
  output.write(new TextEncoder().encode(`${line}\n`)).catch(() => {});
}

/** What the log needs beside a request and its response; `end` is when the response was ready. */
type LogContext = { target: Target; start: number; end: number; format: Options["logFormat"] };

/** Formats a line of the log. */
function logLine(request: Request, { status, headers }: Response, context: LogContext): string {
  const { target, start, end, format } = context;
  const address = target.client.replace(/^::ffff:(?=.*\.)/, ""); // an IPv4-mapped address (RFC 4291, 2.5.5.2)
  const length = request.method !== "HEAD" && headers.get("content-length") || "-";
  const [host] = target.foreignHosts; // valid, or the status is 400
  const what = `${request.method} ${status === 403 && host !== undefined ? `//${host}` : ""}${target.logged}`;
  if (format === "short") return `${localTime(new Date(end))} ${address} ${what} ${status} ${length} ${end - start}ms`;
  const time = new Date(end).toUTCString().replace(/^.*, (\d+) (\w+) (\d+) (\S+) GMT$/, "$1/$2/$3:$4 +0000");
  const isHttp2 = request.url.startsWith("https:") && !request.headers.has("host"); // Deno has no API for the version
  const referer = request.headers.get("referer")?.replace(/\/\/[^/?#]*@/g, "//"); // without a password
  const quoted = [`${what} HTTP/${isHttp2 ? "2.0" : "1.1"}`, referer, request.headers.get("user-agent")].map(quote);
  return `${address} - - [${time}] ${quoted[0]} ${status} ${length} ${quoted[1]} ${quoted[2]}`;
}

/** Quotes a text for the log, with the escapes of Apache. */
function quote(text: string | null | undefined): string {
  const escape = (character: string) =>
    /["\\]/.test(character) ? `\\${character}` : `\\x${character.charCodeAt(0).toString(16).padStart(2, "0")}`;
  return `"${(text || "-").replace(/[^\x20-\x7e]|["\\]/g, escape)}"`;
}

function localTime(date: Date): string {
  return date.toTimeString().slice(0, 8);
}

/** Percent-encodes all but visible ASCII, so that a text can't add lines or headers. */
function toAscii(text: string): string {
  return text.replace(/[^\x21-\x7e]/gu, encodeURIComponent);
}

// Password ----------------------------------------------------------------------------------------------------------

/** The header of a 401 (RFC 7617, 2 and 2.1). */
const CHALLENGE = { "www-authenticate": 'Basic realm="http-server", charset="UTF-8"' };

/** Returns the check of a request's credentials (RFC 7617, 2). Throws a UsageError if no client could send them. */
function createPasswordCheck(credentials: string): (request: Headers) => boolean {
  const isRight = /^[^:\p{Cc}]*:\P{Cc}+$/u.test(credentials);
  // Do not quote them: they may contain a password.
  checkUsage(isRight, "auth must be USER:PASSWORD, with a colon, a password and no control characters");
  const digestOf = (token: string) => nodeCrypto.createHash("sha256").update(token).digest();
  const digest = digestOf(new TextEncoder().encode(credentials).toBase64());
  return (request) => {
    const [, token = ""] = /^Basic +(.*)$/i.exec(request.get("authorization") ?? "") ?? [];
    return nodeCrypto.timingSafeEqual(digestOf(token), digest); // in constant time, so that nobody can guess parts of it
  };
}

// Live reload -------------------------------------------------------------------------------------------------------

const LIVE_SCRIPT_PATH = "/.live-reload/script.js"; // in a dot-folder, which is not served otherwise
const LIVE_EVENTS_PATH = "/.live-reload/events";
const LIVE_CHECK_HEADER = "live-reload-check"; // marks the HEAD request of the script, which counts as a navigation
const SWEEP_RATIO = 25; // a rest takes 25 times as long as the sweep before, so that sweeps take 4% of a core
const LONGEST_REST = 1000; // ms; on a busy machine, a sweep seems to take long
const LONGEST_PATH = 4096; // characters; systems have no longer paths that could change
const SWEEP_WAIT = 200; // ms that a page waits for a sweep
const SLICE_TIME = 2; // ms of a sweep before yielding to other requests
const BURST_SWEEPS = 20; // after so many sweeps that found changes, pages reload anyway
const RETRY_TIME = 1000; // ms until pages connect again after the server has stopped
const STYLES_LIMIT = 50; // changed stylesheets in an event; more cause a reload

/**
 * The start of a page, which must stay before the script: byte order mark, comments, doctype, <html> and <head>.
 * An unclosed comment or tag does not match, so the script is inserted before it.
 */
const PAGE_START =
  /^(?:\xef\xbb\xbf)?(?:\s|<!--[^]*?-->|<\?xml[^]*?\?>|<!doctype[^>]*>|<(?:html|head)(?:\s(?:"[^"]*"|'[^']*'|[^>"'])*)?>)*/i;

/** The script in every page. It has a URL because a content-security policy may forbid inline scripts. */
const LIVE_SCRIPT = `"use strict"; // http-server --live: reloads the page when a file changes
{
  const script = document.currentScript;
  const source = new URL(script.getAttribute("src"), location.href); // <base> affects \`script.src\`
  const isStandIn = "standIn" in script.dataset;
  const key = "http-server --live";
  let version = source.search.slice(1); // of the site, when the page was read
  let events;
  script.remove(); // leave no trace in the DOM

  // Browsers open six connections per server: only top-level, visible pages listen.
  if (!(Symbol.for(key) in window) && window.frameElement === null) {
    window[Symbol.for(key)] = true;
    document.addEventListener("visibilitychange", listen);
    listen();
  }

  function listen() {
    events?.close();
    if (document.hidden) return;
    events = new EventSource(new URL("events?" + version, source));
    events.onmessage = ({ data }) => update(JSON.parse(data));
  }

  function update({ version: newVersion, styles }) {
    const links = styles?.map(swappableLinks);
    if (!links?.every(({ length }) => length > 0)) return reload(newVersion);
    version = newVersion;
    for (const link of links.flat()) link.href = new URL("?" + version, link.href);
  }

  // Does not reload while the page is missing or empty in the middle of a build.
  async function reload(newVersion) {
    events.close(); // it may use the last connection
    const response = await fetch(location.href, { method: "HEAD", headers: { "${LIVE_CHECK_HEADER}": "1" } }).catch(() => {});
    if (response === undefined) return setTimeout(listen, 1000); // the server is away
    const { ok, headers } = response;
    // A listing or an error page is no reason to replace a page that came from a file.
    const isFile = headers.has("accept-ranges") || !headers.get("content-type")?.startsWith("text/html");
    const isReady = isStandIn || ok && isFile && headers.get("content-length") !== "0";
    // A service worker may respond with a page of an old version: reload only once for each version.
    const attempt = location.href + " " + newVersion;
    let lastAttempt;
    try {
      lastAttempt = sessionStorage[key];
      sessionStorage[key] = attempt;
    } catch {} // storage is disabled
    if (isReady && attempt !== lastAttempt) return location.reload();
    version = newVersion;
    listen();
  }

  // Reports whether a link, a style element or an @import rule uses a stylesheet, directly or by imports.
  function uses({ href, sheet, styleSheet = sheet }, path, base) {
    try {
      const url = new URL(href ?? "", base);
      if (url.origin === location.origin && decodeURIComponent(url.pathname) === path) return true;
      return [...styleSheet.cssRules].some((rule) => "href" in rule && uses(rule, path, url));
    } catch {
      return false; // the stylesheet is missing or of another origin
    }
  }

  // Returns the links that use a stylesheet, or no link if anything else uses it as well.
  function swappableLinks(path) {
    const elements = roots(document).flatMap((root) => [...root.querySelectorAll("link[rel~=stylesheet], style")]);
    const users = elements.filter((element) => uses(element, path, element.baseURI));
    const isLink = (user) => user.localName === "link" && document.contains(user);
    const isLoadedByScript = ({ name, initiatorType }) =>
      /script|fetch|xmlhttprequest/.test(initiatorType) && uses({ href: name }, path);
    const isSwappable = users.every(isLink) && !performance.getEntriesByType("resource").some(isLoadedByScript);
    return isSwappable ? users : [];
  }

  // Returns a document or shadow root, and all that are inside it; closed and foreign ones are not visible.
  function roots(root) {
    const inner = [...root.querySelectorAll("*")].map((element) => element.shadowRoot ?? element.contentDocument);
    return [root, ...inner.filter((root) => root).flatMap(roots)];
  }
}
`;

/** What was found at a known path. */
interface Outcome {
  readonly metadata: string; // differs if the file or folder may have changed
  readonly content: string; // differs if a page can see a change: the tag of the bytes, or of the names in a folder
}

const MISSING: Outcome = { metadata: "", content: "" };

/**
 * Looks at all requested paths repeatedly while pages listen, and sends an event if one has changed. A page carries
 * the version of the site it was read from, so it misses no change while it loads or while the server restarts.
 */
class LiveReload {
  #known = new Map<UrlPath, Outcome>(); // the path requested last comes last
  #changes: [path: UrlPath, before: string][] = []; // what changed, and its content before; the oldest first
  #history: string = crypto.randomUUID(); // identifies this list of changes
  #listeners = new Map<ReadableStreamDefaultController<ServerSentEventMessage>, string>(); // and its page's version
  #ignored: RegExp[];
  #lastSweep = Promise.resolve();
  #nextSweep?: Promise<void>; // undefined once it has begun
  #timer?: ReturnType<typeof setTimeout>; // starts the next sweep

  constructor(private readonly services: Services, private readonly options: Options) {
    this.#ignored = options.ignore.map((glob) => globToRegExp(glob));
    options.signal?.addEventListener("abort", () => {
      for (const listener of this.#listeners.keys()) listener.close();
      this.#listeners.clear();
      clearTimeout(this.#timer);
    });
  }

  /** Reports whether a request is for the script or by it. Such a request is logged only if it gets a 401. */
  isOwn({ method, headers }: Request, path?: UrlPath): boolean {
    return path === LIVE_SCRIPT_PATH || path === LIVE_EVENTS_PATH ||
      method === "HEAD" && headers.has(LIVE_CHECK_HEADER);
  }

  /** Serves the script and the events; the query is the version of the page. Returns undefined for other paths. */
  respond(path: UrlPath, query: string): Response | undefined {
    if (path === LIVE_EVENTS_PATH) return this.#openEvents(query.slice(1));
    if (path !== LIVE_SCRIPT_PATH) return undefined;
    const headers = { "content-type": "text/javascript; charset=UTF-8", "content-length": `${LIVE_SCRIPT.length}` };
    return this.services.responses.build(LIVE_SCRIPT, headers);
  }

  /** Looks at a path, once now and in each sweep. If it ends with a slash, the names in the folder count. */
  watch(path: UrlPath): void {
    if (path.length > LONGEST_PATH || this.#isIgnored(path)) return;
    const outcome = this.#known.get(path) ?? this.#look(path);
    this.#known.delete(path);
    this.#known.set(path, outcome);
    if (this.#known.size > this.options.limits.knownPaths) this.#known.delete(this.#known.keys().next().value!);
  }

  /** Reports whether a glob matches the path, a parent folder, or any name in it. */
  #isIgnored(path: UrlPath): boolean {
    const names = path.slice(1).split("/");
    const upTo = (index: number) => names.slice(0, index + 1).join("/");
    return this.#ignored.some((glob) => names.some((name, index) => glob.test(name) || glob.test(upTo(index))));
  }

  /** Sweeps, for at most SWEEP_WAIT, and returns the version for a page that is about to be read. */
  async pageVersion(): Promise<string> {
    const limit = Promise.withResolvers<void>();
    const timer = setTimeout(limit.resolve, SWEEP_WAIT);
    await Promise.race([this.#sweep(), limit.promise]);
    clearTimeout(timer);
    return this.#version;
  }

  /** The version of the site: the number of changes so far, and the list that they are in. */
  get #version(): string {
    return `${this.#changes.length}-${this.#history}`;
  }

  /** Removes conditions and ranges from a request whose response gets the script, with a URL that differs each time. */
  withoutConditions(request: Request, { full: { headers } }: Representation): Request {
    const isPage = isNavigation(request) && isHtmlType(headers.get("content-type"));
    return isPage ? new Request("http://localhost/", { method: request.method }) : request; // its URL may be invalid
  }

  /** Inserts the script into an HTML response. A 401 gets none, because the script would be a 401, too. */
  insertScript(response: Response, version: string): Response {
    const { status, body, headers } = response;
    const type = headers.get("content-type") ?? "";
    if (body === null || !isHtmlType(type) || headers.has("content-encoding") || status === 401) return response;
    const source = escapeHtml(`${encodePath(this.options.base)}${LIVE_SCRIPT_PATH}?${version}`);
    const standIn = headers.has("accept-ranges") ? "" : " data-stand-in"; // a listing or an error page
    const element = `<script async src="${source}"${standIn}></script>`;
    const page = insertElement(body, new TextEncoder().encode(element), type.includes("charset"));
    const changed = new Response(ReadableStream.from(page), response);
    for (const name of ["etag", "last-modified", "accept-ranges", "content-length"]) changed.headers.delete(name);
    changed.headers.set("cache-control", "no-store");
    this.services.responses.addCommonHeaders(changed.headers);
    return changed;
  }

  #openEvents(version: string): Response {
    let listener: ReadableStreamDefaultController<ServerSentEventMessage>;
    const events = new ReadableStream<ServerSentEventMessage>({
      start: (controller) => {
        if (this.options.signal?.aborted) return controller.close();
        listener = controller;
        listener.enqueue({ retry: RETRY_TIME });
        this.#listeners.set(listener, version);
        if (this.#listeners.size === 1) this.#keepSweeping();
      },
      cancel: () => {
        this.#listeners.delete(listener);
        if (this.#listeners.size === 0) clearTimeout(this.#timer);
      },
    });
    const headers = { "content-type": "text/event-stream", "cache-control": "no-store" };
    return this.services.responses.build(events.pipeThrough(new ServerSentEventStream()), headers);
  }

  /** Sweeps, and again after a rest while pages listen. Announces changes when a sweep finds no further ones. */
  async #keepSweeping(lastVersion = "", sweeps = 0): Promise<void> {
    const start = this.options.now();
    await this.#sweep();
    const version = this.#version;
    const isBurst = version !== lastVersion && sweeps < BURST_SWEEPS;
    const rest = isBurst ? 0 : Math.min(SWEEP_RATIO * (this.options.now() - start), LONGEST_REST);
    if (!isBurst) this.#announce();
    clearTimeout(this.#timer); // the last page may have left and another one come during the sweep
    if (this.#listeners.size === 0) return;
    const next = () => this.#keepSweeping(version, isBurst ? sweeps + 1 : 0);
    this.#timer = setTimeout(next, Math.max(this.options.limits.sweepRest, rest));
  }

  /** Looks at all known paths. Callers share the sweep that begins next: one that is running may miss a change. */
  #sweep(): Promise<void> {
    return this.#nextSweep ??= this.#lastSweep = this.#lastSweep.then(() => this.#lookAtAll());
  }

  async #lookAtAll(): Promise<void> {
    this.#nextSweep = undefined;
    let sliceStart = performance.now();
    for (const [path, before] of [...this.#known]) {
      const outcome = this.#look(path, before);
      if (outcome !== before) this.#known.set(path, outcome);
      if (outcome.content !== before.content) this.#changes.push([path, before.content]);
      if (performance.now() - sliceStart < SLICE_TIME) continue;
      await delay(0);
      if (this.options.signal?.aborted) return;
      sliceStart = performance.now();
    }
    if (this.#changes.length <= this.options.limits.knownPaths) return;
    this.#changes = [];
    this.#history = crypto.randomUUID();
  }

  /** Looks at a path, and reads it if its metadata has changed. An unreadable path counts as missing. */
  #look(path: UrlPath, before?: Outcome): Outcome {
    try {
      const entry = this.services.files.look(path);
      if (entry === undefined) return MISSING;
      const { isFile, isSettled, version } = entry;
      // When a file has settled, its metadata differs, so that its bytes are compared once more.
      const metadata = `${[version, isFile, isSettled]}`;
      return metadata === before?.metadata ? before : { metadata, content: strongTag(this.#read(path, entry)) };
    } catch {
      return MISSING;
    }
  }

  /** Returns the bytes of a file, the times and size of a large one, or the names in a folder that may be listed. */
  #read(path: UrlPath, entry: Entry): Bytes | string {
    const { files } = this.services;
    const { listing, spa, limits } = this.options;
    if (!entry.isFile) return path.endsWith("/") && listing && !spa ? files.visibleNames(entry) : "a folder";
    return files.readNow(entry, limits.readSize)?.bytes ?? `${entry.size} ${entry.mtime} ${entry.ctime}`;
  }

  /** Sends each page the changes since its version. A page that gets no list of stylesheets to swap reloads. */
  #announce(): void {
    const version = this.#version;
    const pages = Map.groupBy(this.#listeners, ([, version]) => version);
    pages.delete(version);
    for (const [since, listeners] of pages) {
      const paths = this.#changedSince(since);
      const sheets = paths?.filter((path) => !/\.css\.map$/i.test(path)); // pages need no source maps
      const isSwap = sheets?.every((path) => /\.css$/i.test(path)) && sheets.length <= STYLES_LIMIT;
      const styles = isSwap ? sheets!.map((path) => this.options.base + path) : undefined;
      for (const [listener] of listeners) {
        listener.enqueue({ data: JSON.stringify({ version, styles }) });
        this.#listeners.set(listener, version);
      }
      if (paths === undefined || paths.length === 0) continue;
      const more = paths.length > 1 ? ` and ${paths.length - 1} more` : "";
      this.options.onReload?.(`changed: ${toAscii(paths[0]!.slice(1))}${more}`);
    }
  }

  /** Returns the paths whose content differs from that in a version, or undefined for an unknown version. */
  #changedSince(version: string): UrlPath[] | undefined {
    const number = Number.parseInt(version);
    if (version !== `${number}-${this.#history}`) return undefined;
    const before = new Map(this.#changes.slice(number).reverse()); // a later entry wins: the first change of a path
    return [...before.keys()].filter((path) => before.get(path) !== this.#known.get(path)?.content);
  }
}

/** Inserts an element near the beginning of a page, which must be in the first chunk. UTF-16 pages stay unchanged. */
async function* insertElement(page: ReadableStream<Bytes>, element: Bytes, hasCharset: boolean): AsyncGenerator<Bytes> {
  let isStart = true;
  for await (const chunk of page) {
    const position = isStart && !isUtf16(chunk) ? scriptPosition(chunk, hasCharset) : undefined;
    yield chunk.slice(0, position);
    if (position !== undefined) yield* [element, chunk.slice(position)];
    isStart = false;
  }
  if (isStart) yield element; // an empty page
}

/** Returns the position of the script in a page, counted in bytes. */
function scriptPosition(start: Bytes, hasCharset: boolean): number {
  const text = new TextDecoder("latin1").decode(start); // one character per byte
  const { length } = PAGE_START.exec(text)![0];
  if (hasCharset) return length;
  // The page's own declaration must stay within its first 1,024 bytes.
  const withoutComments = text.slice(0, SNIFFED_SIZE).replace(/<!--.*?(?:-->|$)/gs, ({ length }) => " ".repeat(length));
  const meta = /<meta\s[^>]*charset[^>]*>/i.exec(withoutComments);
  return Math.max(length, meta === null ? 0 : meta.index + meta[0].length);
}

// Certificate -------------------------------------------------------------------------------------------------------

/** Encodes a value (X.690, 8.1 and 10.1). Encoded values are hexadecimal digits. */
function der(tag: string, ...content: string[]): string {
  const value = content.join("");
  const length = value.length / 2;
  const [form, digits] = length < 128 ? ["", 2] : length < 256 ? ["81", 2] : ["82", 4] as const;
  return tag + form + length.toString(16).padStart(digits, "0") + value;
}

const sequence = (...content: string[]) => der("30", ...content);
const text = (tag: string, value: string) => der(tag, new TextEncoder().encode(value).toHex());

/** Encodes a positive number without needless zeros (X.690, 8.3). */
const integer = (digits: string) => der("02", digits.replace(/^(?:00)+/, "").replace(/^[89a-f]/, "00$&"));

/** Encodes a host as a subjectAltName, `.example.com` as two; an invalid host is left out (RFC 5280, 4.2.1.6). */
function alternativeName(host: string): string {
  if (host.startsWith(".")) return alternativeName(host.slice(1)) + alternativeName(`*${host}`);
  const url = URL.parse(`http://${host}`) ?? URL.parse(`http://[${host}]`); // IPv6 needs brackets
  const name = url?.hostname ?? "";
  if (/^[\d.]+$/.test(name)) return der("87", new Uint8Array(name.split(".").map(Number)).toHex());
  if (!name.startsWith("[")) return name && text("82", name);
  const toDigits = (groups: string) => groups.replace(/([\da-f]+):?/g, (_, group) => group.padStart(4, "0"));
  const [head = "", tail = ""] = name.slice(1, -1).split("::").map(toDigits);
  return der("87", head.padEnd(32 - tail.length, "0") + tail);
}

/**
 * Returns a new self-signed certificate for this machine and for other hosts, and its key, as PEM (RFC 5280, 4.1; RFC
 * 7468). It expires in 364 days. `.example.com` stands for `example.com` and names one level below it.
 */
export async function makeCertificate(hosts: string[] = []): Promise<{ cert: string; key: string }> {
  const algorithm = { name: "ECDSA", namedCurve: "P-256", hash: "SHA-256" };
  const { publicKey, privateKey } = await crypto.subtle.generateKey(algorithm, true, ["sign"]);
  const ecdsaWithSha256 = "300a06082a8648ce3d040302";
  const subject = sequence(der("31", sequence("0603550403", text("0c", "http-server")))); // commonName
  const time = (daysFromNow: number) =>
    text("17", `${new Date(Date.now() + daysFromNow * 86_400_000).toISOString().replace(/\D/g, "").slice(2, 14)}Z`);
  const names = ["localhost", "127.0.0.1", "::1", ...hosts].map(alternativeName);
  const extensions = sequence(
    "300b0603551d0f040403020780", // keyUsage: digitalSignature
    sequence("0603551d11", der("04", sequence(...names))), // subjectAltName
    "30090603551d1304023000", // basicConstraints: no authority
    "30130603551d25040c300a06082b06010505070301", // extKeyUsage: serverAuth
  );
  const toBeSigned = sequence(
    "a003020102", // version 3
    integer(crypto.getRandomValues(new Uint8Array(16)).toHex()), // Firefox refuses a serial number that it knows
    ecdsaWithSha256,
    subject,
    sequence(time(-1), time(364)), // browsers refuse more than 398 days
    subject,
    new Uint8Array(await crypto.subtle.exportKey("spki", publicKey)).toHex(),
    der("a3", extensions),
  );
  const raw = new Uint8Array(await crypto.subtle.sign(algorithm, privateKey, Uint8Array.fromHex(toBeSigned))).toHex();
  const signature = sequence(integer(raw.slice(0, 64)), integer(raw.slice(64)));
  const certificate = sequence(toBeSigned, ecdsaWithSha256, der("03", "00", signature));
  const pem = (label: string, bytes: Uint8Array) =>
    `-----BEGIN ${label}-----\n${bytes.toBase64().replace(/.{64}/g, "$&\n")}\n-----END ${label}-----\n`;
  return {
    cert: pem("CERTIFICATE", Uint8Array.fromHex(certificate)),
    key: pem("PRIVATE KEY", new Uint8Array(await crypto.subtle.exportKey("pkcs8", privateKey))),
  };
}

// Command line ------------------------------------------------------------------------------------------------------

const DEFAULT_PORT = 8080; // if none is given
const PORT_TRIES = 100; // ports to try after the default one

/** Every option of the command line, for `parseArgs` and `--help`. */
const FLAGS = {
  port: { type: "string", short: "p", value: "N", help: "0 for any [default: 8080 or the next free one]" },
  host: { type: "string", short: "a", value: "ADDRESS", help: "address to listen on [default: every interface]" },
  "allow-host": { type: "string", multiple: true, value: "NAME", help: "allow local clients to use NAME; repeatable" },
  base: { type: "string", value: "PATH", help: "serve the folder under PATH, such as /docs/" },
  "no-listing": { type: "boolean", help: "don't list folders; respond with 404" },
  dotfiles: { type: "boolean", help: "serve files and folders that begin with a dot" },
  symlinks: { type: "boolean", help: "follow symbolic links that lead out of the folder" },
  spa: { type: "boolean", help: "single-page app: index.html for unknown paths" },
  live: { type: "boolean", help: "reload pages in the browser when a file changes" },
  ignore: { type: "string", multiple: true, value: "GLOB", help: "with --live: don't reload for GLOB; repeatable" },
  cors: { type: "boolean", help: "send CORS headers that allow every origin" },
  header: { type: "string", multiple: true, value: '"NAME: VALUE"', help: "add a header to responses; repeatable" },
  "max-age": { type: "string", value: "SECONDS", help: "cache all but HTML [default: 0, revalidate]" },
  "no-compress": { type: "boolean", help: "send files as they are, never compressed" },
  auth: { type: "string", value: "USER:PASSWORD", help: "require this user name and password" },
  https: { type: "boolean", help: "HTTPS with a new certificate; browsers warn first" },
  cert: { type: "string", value: "FILE", help: "HTTPS with this certificate (PEM)" },
  key: { type: "string", value: "FILE", help: "private key of the certificate (PEM)" },
  quiet: { type: "boolean", short: "q", help: "don't log requests" },
  help: { type: "boolean", short: "h", help: "print this text" },
  version: { type: "boolean", short: "V", help: "print the version" },
} as const satisfies Record<string, Flag>;

type Flag = { type: "string" | "boolean"; short?: string; multiple?: boolean; value?: string; help: string };

/** A wrong option of the command line or of `createHandler`. `main` exits with 2, and with 1 for other errors. */
class UsageError extends TypeError {}

/** Throws a UsageError if an option is not right. */
function checkUsage(isRight: boolean | undefined, message: string): void {
  if (!isRight) throw new UsageError(message);
}

/** Returns the text of `--help`. */
export function helpText(): string {
  const rows = Object.entries<Flag>(FLAGS).map(([name, { short, value, help }]) => {
    const flag = `${short ? `-${short},` : "   "} --${name}${value ? ` ${value}` : ""}`;
    return `  ${flag.padEnd(27)} ${help}`;
  });
  return `http-server ${VERSION}: serves a folder over HTTP

Usage: http-server [options] [folder]

  [folder]                    folder to serve [default: www beside the script,
                              or else the current folder]

${rows.join("\n")}

Examples:
  http-server --live ~/site               reload pages while you edit
  http-server --spa --port 3000 dist      a single-page app on port 3000
  http-server --https --auth me:secret .  the current folder, with a password`;
}

/** A parsed command line: its options and those of the handler. `port` is undefined if the user named none. */
type Command = ReturnType<typeof parseCommand>;

/** Parses the command line. Throws a UsageError. */
function parseCommand(args: string[]) {
  const { values, positionals } = parseFlags(args);
  // A command made by `deno install` with `.` as its last argument passes it first; a folder after it replaces it.
  const folders = positionals[0] === "." && positionals.length > 1 ? positionals.slice(1) : positionals;
  const [root] = folders;
  const { https, cert, key, live, ignore, "max-age": maxAge } = values;
  checkUsage(folders.length < 2, `expected one folder, got ${folders.length}`);
  checkUsage(root !== "", "the name of the folder is empty");
  checkUsage(values.host !== "", "--host needs an address to listen on, such as 127.0.0.1");
  checkUsage(!https || !cert && !key, "leave out --https to use the certificate of --cert and --key");
  checkUsage(!cert === !key && cert !== "" && key !== "", "--cert and --key must be given together, each with a file");
  const names = values["allow-host"] ?? [];
  const wrong = names.find((name) => !/^\.?[\w-]+(?:\.[\w-]+)*\.?(?::\d+)?$/.test(name));
  checkUsage(wrong === undefined, `--allow-host must be a name such as example.com or .example.com, not "${wrong}"`);
  checkUsage(live || ignore === undefined, "--ignore needs --live");
  checkUsage(!live || maxAge === undefined, "leave out --max-age: with --live, browsers revalidate every file");
  const host = values.host?.replace(/^\[(.*)\]$/, "$1"); // IPv6 may have brackets, as in a URL
  return {
    ...values,
    root,
    host,
    port: parseNumber("--port", values.port, 65535),
    listing: !values["no-listing"],
    compress: !values["no-compress"],
    headers: values.header?.map(parseHeader),
    maxAge: parseNumber("--max-age", maxAge, MAX_AGE_LIMIT),
    allowHosts: [...names, ...host === undefined ? [] : [host]],
  };
}

function parseFlags(args: string[]) {
  try {
    return parseArgs({ args, options: FLAGS, allowPositionals: true });
  } catch (error) {
    // Its first sentence names the problem; the others explain a syntax that is not needed here.
    const [sentence = ""] = (error as Error).message.split(/\.\s|\n/);
    const message = sentence.replace(/^O|^U/, (letter) => letter.toLowerCase())
      .replace(/(?: <value>)?' argument missing$/, "' needs a value")
      .replace("' argument is ambiguous", "' needs a value that does not begin with a dash");
    const [, name = ""] = /^Unknown option '-+(.+)'$/.exec(sentence) ?? [];
    throw new UsageError(`${message}; ${insteadOf(name)}`);
  }
}

/** Options of `serve`, npm's `http-server` and `python3 -m http.server`, and what to use here. */
const OTHER_NAMES: [RegExp, instead: string][] = [
  [/^single$/, "use --spa"],
  [/^s$/, "use --spa for a single-page app, or --quiet"],
  [/^(?:b|bind|l|listen)$/, "use --host and --port"],
  [/^(?:d|directory)$/, "give the folder without an option"],
  [/^(?:S|ssl-cert|tls-cert)$/, "use --https, or --cert and --key"],
  [/^(?:w|watch)$/, "use --live"],
  [/^(?:o|open)$/, "open the printed address in a browser"],
  [/^(?:c|cache)$/, "use --max-age"],
  [/^v$/, "use --version"],
];

/** Returns what to use instead of an unknown option. */
function insteadOf(name: string): string {
  const [, instead] = OTHER_NAMES.find(([names]) => names.test(name)) ?? [];
  const start = name.toLowerCase();
  const similar = Object.keys(FLAGS).find((flag) => flag.startsWith(start) || start.startsWith(flag));
  return instead ?? (similar && start.length > 1 ? `use --${similar}` : "--help lists the options");
}

function parseNumber(flag: string, value: string | undefined, most: number): number | undefined {
  if (value === undefined) return undefined;
  const isRight = /^\d{1,10}$/.test(value) && Number(value) <= most;
  checkUsage(isRight, `${flag} must be a whole number from 0 to ${most}, not "${value}"`);
  return Number(value);
}

function parseHeader(header: string): [name: string, value: string] {
  const [, name = "", value = ""] = /^([^:]+):\s*(.*?)\s*$/s.exec(header) ?? [];
  checkUsage(name !== "", `--header must be "Name: value", not ${JSON.stringify(header)}`);
  return [name, value];
}

// Server ------------------------------------------------------------------------------------------------------------

/** Runs the program. Returns the exit code: 0, 1 for a run-time error, 2 for wrong usage, 130 after a second signal. */
export async function main(args: string[], limits: typeof LIMITS = LIMITS): Promise<number> {
  try {
    const { deno } = Deno.version;
    if (/^(?:[01]|2\.[0-4])\./.test(deno)) throw new Error(`Deno 2.5 or later is needed; this is Deno ${deno}`);
    const command = parseCommand(args);
    if (!command.help && !command.version) return await serve(command, limits);
    console.log(command.help ? helpText() : `http-server ${VERSION}`);
    return 0;
  } catch (error) {
    console.error(`http-server: ${errorMessage(error)}.`);
    return error instanceof UsageError ? 2 : 1;
  }
}

async function serve(command: Command, limits: typeof LIMITS): Promise<number> {
  const root = findRoot(command.root);
  const pair = await certificateFor(command, root);
  const log = command.quiet ? undefined : new LogWriter(limits.logSize);
  const stop = new AbortController();
  const handler = createHandler({ ...command, root, signal: stop.signal, limits, ...log && logOptions(log) });
  let server = listen(command, handler, pair);
  const { hostname, port } = server.addr;
  const stopped = watchSignals(limits, () => {
    stop.abort();
    server.shutdown();
  });
  announce(command, root, server.addr);

  let reportedAt = -Infinity;
  let exitCode: number | undefined;
  for (let isAgain = false; exitCode === undefined && !stop.signal.aborted; isAgain = true) {
    try {
      if (isAgain) server = listen({ ...command, host: hostname, port }, handler, pair);
      exitCode = await Promise.race([server.finished.then(() => 0), stopped]);
    } catch (error) {
      // Without a free file descriptor Deno stops accepting for good, although one may be free a moment later.
      if (performance.now() - reportedAt > limits.reportInterval) {
        logError(`cannot accept a connection: ${errorMessage(error)}`);
        reportedAt = performance.now();
      }
      await delay(limits.retryDelay);
    }
  }
  if (exitCode !== 130) await Promise.race([log?.written, delay(limits.flushTime)]);
  return exitCode ?? 0;
}

/** Returns the options that write to the log, in a format for people or for programs. */
function logOptions(log: LogWriter): Partial<Options> {
  if (!Deno.stdout.isTerminal()) return { log: (line) => log.write(line) };
  const colors: Record<string, number> = { 2: 32, 3: 36, 4: 33, 5: 31 };
  const paint = (status: string) => Deno.noColor ? status : `\x1b[${colors[status[0]!]}m${status}\x1b[0m`;
  return {
    logFormat: "short",
    log: (line) => log.write(line.replace(/\d{3}(?= \S+ \S+$)/, paint)),
    onReload: (line) => log.write(`${localTime(new Date())} ${line}`),
  };
}

/** Calls `shutdown` at the first signal. Resolves to the exit code at the second one, or if the stop takes too long. */
function watchSignals({ sameSignalTime, stopTime }: typeof LIMITS, shutdown: () => void): Promise<number> {
  const { promise, resolve } = Promise.withResolvers<number>();
  let start: number | undefined;
  const onSignal = () => {
    if (start !== undefined) return performance.now() - start > sameSignalTime ? resolve(130) : undefined;
    start = performance.now();
    shutdown();
    const explain = () => writeLater(Deno.stdout, "\nFinishing responses in flight; press Ctrl-C again to stop now.");
    if (Deno.stdout.isTerminal()) setTimeout(explain, sameSignalTime);
    setTimeout(() => resolve(0), stopTime);
  };
  Deno.addSignalListener("SIGINT", onSignal);
  if (Deno.build.os !== "windows") Deno.addSignalListener("SIGTERM", onSignal); // Windows has no SIGTERM
  return promise;
}

/** Returns the named folder; without a name, `www` beside this file, or the current folder if there is no `www`. */
function findRoot(named?: string): string {
  const root = resolve(named ?? DEFAULTS.root);
  try {
    // For a network drive, Deno requires all permissions as soon as it sees the real path.
    const folder = Deno.build.os === "windows" ? Deno.realPathSync(root) : root;
    for (const _ of Deno.readDirSync(folder)) break; // leaving the loop closes the folder
    return root;
  } catch (error) {
    if (statusOf(error) !== 404) throw new Error(`cannot read the folder ${root}: ${errorMessage(error)}`);
    const isFile = error instanceof Deno.errors.NotADirectory;
    const hint = /^\d+$/.test(named ?? "") ? `; for a port, use --port ${named}` : "";
    checkUsage(named === undefined, isFile ? `${root} is not a folder` : `there is no folder ${root}${hint}`);
    return findRoot(".");
  }
}

/** Returns the certificate and the key for HTTPS; undefined without HTTPS. */
async function certificateFor(command: Command, root: string): Promise<Deno.TlsCertifiedKeyPem | undefined> {
  const { https, cert, key, allowHosts } = command;
  if (https) return await makeCertificate([...allowHosts, ...networkAddresses("::")]);
  if (cert === undefined || key === undefined) return undefined;
  return { cert: readPem("--cert", cert, command, root), key: readPem("--key", key, command, root) };
}

/** Reads a certificate or a key. Refuses to serve a private key, which a certificate file may contain as well. */
function readPem(flag: string, file: string, { dotfiles }: Command, root: string): string {
  let pem = "";
  try {
    pem = Deno.readTextFileSync(file);
  } catch (error) {
    checkUsage(statusOf(error) !== 404, `${flag}: no such file: ${file}`);
    throw new Error(`${flag}: ${errorMessage(error)}`);
  }
  const path = toUrlPath(Deno.realPathSync(file) as DiskPath, Deno.realPathSync(root) as DiskPath);
  const isServed = path !== undefined && (dotfiles || !isHidden(path));
  const isSecret = isServed && pem.includes("PRIVATE KEY");
  checkUsage(!isSecret, `every client could download the key ${file}; move it out of the served folder`);
  return pem;
}

/** Listens on the named port, or on the first free one from the default on. */
function listen({ host: named, port, cert, key }: Command, handler: Deno.ServeHandler, pair?: Deno.TlsCertifiedKeyPem) {
  // Without the permission for all addresses, Deno would ask the user for each, or refuse some of them.
  const { state, partial } = Deno.permissions.querySync({ name: "net" });
  const mayProbe = named === undefined && state === "granted" && !partial;
  const host = named ?? (mayProbe ? everyInterface() : "0.0.0.0");
  const first = port ?? DEFAULT_PORT;
  const last = port ?? DEFAULT_PORT + PORT_TRIES;
  for (let port = first; port <= last; port++) {
    try {
      // On macOS and Windows, another program may listen on the same port, and gets the requests instead.
      for (const hostname of mayProbe ? ["0.0.0.0", "127.0.0.1"] : []) Deno.listen({ hostname, port }).close();
      return Deno.serve({
        port,
        hostname: host,
        ...pair,
        automaticCompression: false,
        onListen() {}, // `announce` prints it
        onError(error) { // from the body of a response in flight
          logError(`response aborted: ${errorMessage(error)}`);
          return new Response(null, { status: 500 });
        },
      }, handler);
    } catch (error) {
      const isReserved = Deno.build.os === "windows" && error instanceof Deno.errors.PermissionDenied;
      if (error instanceof Deno.errors.AddrInUse || isReserved && first !== last) continue;
      if (port > first) break; // --allow-net covers one port only: report that the first is taken
      const files = cert === undefined ? "" : ` with ${cert} and ${key}`;
      throw new Error(`cannot listen on ${host}, port ${port}${files}: ${errorMessage(error)}`);
    }
  }
  throw new Error(`port ${first} is taken; choose another with --port, or --port 0 for any`);
}

/** Returns `::` if it includes IPv4, otherwise `0.0.0.0`. */
function everyInterface(): string {
  try {
    if (Deno.build.os === "windows") return "0.0.0.0";
    // Only an IPv6 socket that includes IPv4 can have an IPv4-mapped address (RFC 3493, 5.3).
    Deno.listen({ hostname: "::ffff:0.0.0.0", port: 0 }).close();
    return "::";
  } catch {
    return "0.0.0.0"; // the system has no IPv6, or Linux runs with net.ipv6.bindv6only=1
  }
}

/** Prints the addresses, the folder and the options, up to an empty line; on stderr if only stdout is no terminal. */
function announce(command: Command, root: string, { hostname, port }: Deno.NetAddr): void {
  const { host, port: named, https, cert, auth } = command;
  const isSecure = https || cert !== undefined;
  const isTerminal = Deno.stdout.isTerminal();
  const print = !isTerminal && Deno.stderr.isTerminal() ? console.error : console.log;
  const isEverywhere = hostname === "0.0.0.0" || hostname === "::";
  const isPublic = !LOOPBACK_ADDRESS.test(hostname);
  // Browsers on Windows try ::1 first for `localhost`, and wait 300 ms.
  const local = hostname === "0.0.0.0" && Deno.build.os === "windows" && !isSecure ? "127.0.0.1" : "localhost";
  const hosts = isEverywhere ? [local, ...networkAddresses(hostname)] : [host ?? hostname];
  const base = encodePath(normalizeBase(command.base ?? DEFAULTS.base));
  const note = named === undefined && port !== DEFAULT_PORT ? ` (port ${DEFAULT_PORT} is taken)` : "";
  const isCurrent = command.root === undefined && root !== resolve(DEFAULTS.root);
  const folder = isEmbedded(root) ? "the www folder inside this program" : root;
  const shown = Object.keys(command).filter((name) => name in FLAGS && !/^(?:port|host|base|key|quiet)$/.test(name));
  if (isTerminal) print();
  for (const [index, host] of hosts.entries()) {
    const label = index > 0 || isPublic && !isEverywhere ? "Network" : "Local  ";
    const authority = `${host.includes(":") ? `[${host}]` : host}:${port}`; // IPv6 needs brackets (RFC 3986, 3.2.2)
    const url = `${isSecure ? "https" : "http"}://${authority}${base}/`;
    print("%s  %c%s%c%s", label, "font-weight: bold; color: green", url, "", index === 0 ? note : "");
  }
  print(`Version  http-server ${VERSION}`);
  print("Folder  ", `${folder}${isCurrent ? " (the current folder)" : ""}`);
  if (shown.length > 0) print(`Options  ${shown.map((name) => `--${name}`).join(" ")}`);
  if (auth !== undefined && !isSecure) print("Without --https, the password is sent in clear text.");
  if (isTerminal && isPublic) print("Other machines can reach it too; --host 127.0.0.1 keeps it to this one.");
  if (isTerminal) print("Press Ctrl-C to stop.");
  print();
}

/** Returns the addresses at which other machines reach a listener on every interface; none without the permission. */
function networkAddresses(hostname: string): string[] {
  try {
    if (Deno.permissions.querySync({ name: "sys", kind: "networkInterfaces" }).state !== "granted") return [];
    return usableAddresses(Deno.networkInterfaces()).filter((address) => hostname === "::" || !address.includes(":"));
  } catch {
    return []; // a sandbox of the system may hide them
  }
}

/** Returns addresses that other machines may reach: IPv4 but loopback and link-local, then global IPv6; no bridges. */
export function usableAddresses(interfaces: Pick<Deno.NetworkInterfaceInfo, "name" | "address">[]): string[] {
  const isBridge = (name: string) => /^(?:docker|br-|veth|virbr)/.test(name);
  const addresses = interfaces.flatMap(({ name, address }) => isBridge(name) ? [] : [address]);
  const kinds = [/^(?!127\.|169\.254\.)[\d.]+$/, /^[23][\da-f]{3}:/]; // RFC 3927, 2.1; RFC 4291, 2.4
  return kinds.flatMap((kind) => addresses.filter((address) => kind.test(address)));
}

/** Writes the request log to stdout, in batches: single writes would halve the speed. */
class LogWriter {
  /** Resolves when all lines are written. */
  written = Promise.resolve();
  #lines = ""; // of the next batch

  constructor(private readonly limit: number) {}

  write(line: string): void {
    if (this.#lines === "") this.written = this.written.then(() => this.#writeBatch()).catch(() => {});
    if (this.#lines.length < this.limit) this.#lines += `${line}\n`;
  }

  async #writeBatch(): Promise<void> {
    await delay(50); // for more lines
    const batch = new TextEncoder().encode(this.#lines);
    this.#lines = "";
    for (let sent = 0; sent < batch.length;) sent += await Deno.stdout.write(batch.subarray(sent));
  }
}

if (import.meta.main) Deno.exit(await main(Deno.args));
