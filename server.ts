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
 * 4. Memory: `recall` answers at once what `load` has kept, as long as the disk has it unchanged.
 * 5. Variant: `select` says what to send: `chooseEncoding` picks the encoding, `encode` finds or makes it.
 * 6. serveDir: `deliver` lets @std/http's `serveDir` say what a file is, and list folders.
 * 7. Answer: `send` heeds the conditional and range fields, and sends the whole, a part, or neither.
 * 8. Fallback: `fallback` tries the clean URL, the single-page app and the nearest `404.html`.
 * 9. Fields and log: `conclude` finishes what was not ready-made.
 *
 * Before all that, `isAuthorized` asks for the password, where there is one. With live reload, `startLiveReload` follows
 * the changes under the root and tells them to the pages, which `select` gives a script.
 *
 * `createHandler` holds the steps, in `handle` and `respond`, and what needs its options or memory; the functions after
 * it need neither. `main` is the command line and start-up. The program never writes, runs another program, reads the
 * environment or follows a link out of the folder, and it has no uploads, themes or server-side scripts.
 *
 * @module
 */

// Inline, where deno.json has the same: this file also runs alone, copied elsewhere or straight from a URL.
// deno-lint-ignore-file no-import-prefix -- see the line above
import { eTag, ifNoneMatch } from "jsr:@std/http@^1.1/etag";
import { serveDir } from "jsr:@std/http@^1.1/file-server";
import { type ServerSentEventMessage, ServerSentEventStream } from "jsr:@std/http@^1.1/server-sent-event-stream";
import { STATUS_TEXT, type StatusCode } from "jsr:@std/http@^1.1/status";
import { basename } from "jsr:@std/path@^1.1/basename";
import { SEPARATOR } from "jsr:@std/path@^1.1/constants";
import { dirname } from "jsr:@std/path@^1.1/dirname";
import { extname } from "jsr:@std/path@^1.1/extname";
import { join } from "jsr:@std/path@^1.1/join";
import { normalize } from "jsr:@std/path@^1.1/posix/normalize";
import { resolve } from "jsr:@std/path@^1.1/resolve";
import { parseArgs, promisify } from "node:util";

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
  /** Whether files are sent compressed to clients that accept it; false sends their bytes as they are. @default {true} */
  compress: boolean;
  /**
   * Whether pages reload in the browser when a file under the root changes. Nothing is to be stored then, whatever
   * `maxAge` says.
   *
   * @default {false}
   */
  live: boolean;
  /** Ends live reload: the event streams at once, for a server's shutdown waits for them, and the watching soon after. */
  signal?: AbortSignal;
  /** What every client has to know, as `user:password` (RFC 7617, 2); undefined where anyone may ask. @default {undefined} */
  auth?: string;
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
  compress: true,
  live: false,
};

/**
 * Answers one request; what {@linkcode Deno.serve} takes. It never throws and never rejects. Pass on `info` only where the
 * answer goes back to `Deno.serve` as it is: its bytes may be those in memory, and are not to be written to.
 */
export type Handler = (request: Request, info?: Deno.ServeHandlerInfo) => Response | Promise<Response>;

/** A regular file or a folder that may be served. */
interface Entry {
  /** Where the URL space has it: decoded, tidied, without a slash at the end (but `/` for the root). */
  path: string;
  /** Where the disk has it. */
  file: string;
  /** Where that leads when every link is followed; undefined where links may lead anywhere. */
  realPath: string | undefined;
  isFile: boolean;
  version: Version;
}

/** What the disk says of a file that tells whether it is still the same; times in milliseconds. */
interface Version {
  size: number;
  mtime: number | undefined;
  ctime: number | undefined;
  inode: number | null;
  device: number;
}

/** The content codings that files are sent in (RFC 9110, 8.4.1), and the order of preference where a client has none. */
const ENCODINGS = ["br", "zstd", "gzip", "identity"] as const;
type Encoding = typeof ENCODINGS[number];

/** What follows the name of a file that lies compressed beside the original. */
const SUFFIXES: Record<Encoding, string> = { br: ".br", zstd: ".zst", gzip: ".gz", identity: "" };

/** A file in one encoding, with all decided that can be before it is asked for (RFC 9110, 3.2). */
interface Representation {
  /** What it was made from: it holds as long as the disk has that unchanged. */
  entry: Entry;
  validators: Validators;
  /** All fields of its 200. */
  fields: Headers;
  /** The bytes, as a string where they are ASCII; undefined where they stay on the disk. */
  body: string | Uint8Array<ArrayBuffer> | undefined;
  /** What follows the bytes that stay on the disk. */
  suffix?: Uint8Array<ArrayBuffer>;
  /** Ready-made answers, to be cloned. */
  ok?: Response;
  notModified?: Response;
  /** The other encodings of a file that can be compressed. */
  variants?: Variants;
}

interface Variants {
  /** The encodings that lie beside the file. */
  beside: Encoding[];
  /** What has been asked for, and is ready. */
  made: Partial<Record<Encoding, Representation>>;
  /** What has been asked for and is being made, and of which file. */
  making: Partial<Record<Encoding, { source: Entry; variant: Promise<Representation> }>>;
}

const ALLOW = "GET, HEAD, OPTIONS";
const NO_CACHE = "no-cache"; // "ask before you use it again", not "don't keep it"
const NO_STORE = "no-store"; // "don't keep it"
const INDEX = "index.html";
const NOT_FOUND_PAGE = "404.html";

/** How many folders deep a `404.html` is looked for; every one costs a look at the disk. */
const NOT_FOUND_DEPTH = 32;

/** For how many seconds a browser may remember a preflight; browsers cap it at a day or less. */
const PREFLIGHT_MAX_AGE = "86400";

/**
 * Returns the handler that serves `options.root`.
 *
 * @throws {Deno.errors.NotFound} If the root does not exist.
 * @throws {TypeError} If `auth` lacks a colon or a password.
 * @throws {Error} If the root can't be watched, with `live`.
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
    compress = DEFAULTS.compress,
    log,
    signal,
  } = options;
  const root = resolve(options.root ?? DEFAULTS.root);
  let realRoot = Deno.realPathSync(root);
  const credentials = options.auth === undefined ? undefined : digest(checkCredentials(options.auth));
  const live = options.live ? startLiveReload(root, dotfiles, signal) : undefined; // after what may throw
  const errorCacheControl = live ? NO_STORE : NO_CACHE;
  const cacheControl = maxAge > 0 && !live ? `max-age=${maxAge}` : errorCacheControl;

  // What the user says of the encoding is not to be contradicted.
  const isEncodable = compress && !headers.some(([name]) => name.toLowerCase() === "content-encoding");
  const memory = new Memory<Representation>(MEMORY_LIMIT);
  const loading = new Map<string, { entry: Entry; representation: Promise<Representation> }>();
  const negotiated = new Map<string, Encoding[]>();
  let existsSync: ((path: string) => boolean) | undefined;
  let clock = { time: 0, text: "" }; // of the log: many lines are of the same millisecond

  return handle;

  function handle(request: Request, info?: Deno.ServeHandlerInfo): Response | Promise<Response> {
    const start = Date.now();
    const answer = isAuthorized(request)
      ? answerTo(request, info !== undefined)
      : finish(request, fail(401, CHALLENGE));
    if (answer instanceof Promise) return conclude(request, answer, start, info);
    logAnswer(request, answer, start, info);
    return answer;
  }

  function answerTo(request: Request, isShared: boolean): Response | Promise<Response> {
    const known = live ? undefined : recall(request);
    return known === undefined ? respond(request) : send(request, known, isShared);
  }

  /** The only place that catches, and that adds the fields of every answer that is not ready-made. */
  async function conclude(
    request: Request,
    answer: Promise<Response>,
    start: number,
    info?: Deno.ServeHandlerInfo,
  ): Promise<Response> {
    let response: Response;
    try {
      response = await answer;
    } catch (error) {
      response = fail(statusOf(error));
      if (response.status >= 500) complain(`${request.method} ${targetOf(request)}: ${reasonOf(error)}`);
    }
    response = finish(request, response);
    logAnswer(request, response, start, info);
    return response;
  }

  async function respond(request: Request): Promise<Response> {
    const target = parseTarget(request);
    if (target === undefined) return fail(400);
    const { path, query } = target;

    if (request.method === "OPTIONS") return answerOptions(request);
    if (request.method !== "GET" && request.method !== "HEAD") return fail(405, { allow: ALLOW });

    const own = live?.respond(path, query);
    if (own !== undefined) return own;

    // The same answer whether a hidden thing exists or not.
    if (!dotfiles && isHidden(path)) return notFound(request, path);
    const entry = locate(path);
    if (entry === undefined) return fallback(request, path);

    // A page's relative links count from its URL: a folder's ends with a slash, a file's doesn't.
    const isFolderPath = path.endsWith("/");
    if (entry.isFile === isFolderPath) return redirect(isFolderPath ? entry.path : `${path}/`, query);

    if (entry.isFile) return sendEntry(request, entry);
    const index = locate(path + INDEX);
    if (index?.isFile) return sendEntry(request, index);
    return listing ? await sendEntry(request, entry) : notFound(request, path);
  }

  /** Whether the client knows the password, where there is one; browsers send a preflight without it (Fetch, 3.3.5). */
  function isAuthorized(request: Request): boolean {
    if (credentials === undefined || isPreflight(request)) return true;
    return isEqual(digest(parseCredentials(request.headers.get("authorization"))), credentials);
  }

  // 2. Method -------------------------------------------------------------------------------------------------------

  function isPreflight({ method, headers }: Request): boolean {
    return cors && method === "OPTIONS" && headers.has("access-control-request-method");
  }

  /** Answers OPTIONS, a CORS preflight included (RFC 9110, 9.3.7; Fetch standard, 3.3). */
  function answerOptions(request: Request): Response {
    const response = new Response(null, { status: 204, headers: { allow: ALLOW } });
    if (isPreflight(request)) {
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
  function locate(path: string): Entry | undefined {
    const trimmed = path.length > 1 && path.endsWith("/") ? path.slice(0, -1) : path;
    const file = join(root, trimmed);
    try {
      // Of the whole path, for a link anywhere in it may lead out.
      const realPath = symlinks ? undefined : Deno.realPathSync(file);
      if (realPath !== undefined && !isInside(realRoot, realPath)) {
        realRoot = Deno.realPathSync(root); // the root itself may be a link, turned to a new version of the site
        if (!isInside(realRoot, realPath)) return undefined;
      }
      const info = Deno.statSync(file);
      // To open a FIFO waits for its writer, and a device may never end.
      if (!info.isFile && !info.isDirectory) return undefined;
      return { path: trimmed, file, realPath, isFile: info.isFile, version: versionOf(info) };
    } catch (error) {
      if (statusOf(error) === 404) return undefined;
      throw error;
    }
  }

  /** As `locate`, for what is likely not there: Deno says that with an error, which takes longer than all the rest. */
  function locateUnlikely(path: string): Entry | undefined {
    return existsSync?.(join(root, path)) === false ? undefined : locate(path);
  }

  // 4. Memory -------------------------------------------------------------------------------------------------------

  /** Returns what answers a GET or HEAD, where memory has it and the disk has had no change since. */
  function recall(request: Request): Representation | undefined {
    const { url } = request;
    const pathStart = url.indexOf("/", url.indexOf(":") + "://".length);
    const queryStart = url.indexOf("?", pathStart);
    const path = queryStart < 0 ? url.slice(pathStart) : url.slice(pathStart, queryStart);
    const plain = memory.get(path.endsWith("/") ? path + INDEX : path);
    if (plain === undefined || request.method !== "GET" && request.method !== "HEAD") return undefined;
    if (!isHostValid(request.headers.get("host")) || !isCurrent(plain.entry)) return undefined;

    const encoding = chooseEncoding(request, plain);
    if (encoding === "identity") return plain;
    const variant = plain.variants?.made[encoding];
    return variant !== undefined && (variant.entry === plain.entry || isCurrent(variant.entry)) ? variant : undefined;
  }

  /** Whether the disk still has what was found there, in the same place. */
  function isCurrent({ file, realPath, version }: Entry): boolean {
    try {
      if (!isSameVersion(versionOf(Deno.statSync(file)), version)) return false;
      // A file can be where it was while a folder above it has become a link to the outside; the root's own files have none.
      return realPath === undefined || dirname(realPath) === realRoot || Deno.realPathSync(file) === realPath;
    } catch {
      return false;
    }
  }

  /** Returns a file as it is now, from memory or from the disk; requests at the same time wait for the same work. */
  function load(entry: Entry): Promise<Representation> {
    const key = encodePath(entry.path);
    const kept = memory.get(key);
    if (kept !== undefined && isSameVersion(kept.entry.version, entry.version)) return Promise.resolve(kept);
    const mayBeKept = isSettled(entry);
    const other = mayBeKept ? loading.get(key) : undefined;
    if (other !== undefined && isSameVersion(other.entry.version, entry.version)) return other.representation;

    const representation = represent(entry).then((representation) => {
      if (mayBeKept) memory.set(key, representation, footprintOf(representation));
      else memory.delete(key);
      return representation;
    }).finally(() => {
      if (loading.get(key)?.representation === representation) loading.delete(key);
    });
    loading.set(key, { entry, representation });
    return representation;
  }

  // 5. Variant ------------------------------------------------------------------------------------------------------

  /** Returns what to send of a file, or of a folder: in the encoding that suits the request, or with live reload's script. */
  async function select(request: Request, entry: Entry, isStandIn = !entry.isFile): Promise<Representation> {
    const version = live?.version(); // before anything is read: what changes from now on is news to the page
    const plain = entry.isFile ? await load(entry) : await list(entry);
    if (version !== undefined && isForDocument(request) && isPage(plain)) return addScript(plain, version, isStandIn);
    return encode(plain, chooseEncoding(request, plain));
  }

  /** Returns the best encoding of those that the client accepts and the file can have; a range is of the file itself. */
  function chooseEncoding({ headers }: Request, { entry, variants }: Representation): Encoding {
    if (variants === undefined || headers.has("range")) return "identity";
    const field = headers.get("accept-encoding");
    if (field === null) return "identity";
    let accepted = negotiated.get(field);
    if (accepted === undefined) {
      if (negotiated.size >= NEGOTIATED_LIMIT) negotiated.clear();
      negotiated.set(field, accepted = acceptedEncodings(field));
    }
    const { size } = entry.version;
    const isWorthIt = size >= COMPRESSED_SIZE || !accepted.includes("identity");
    const isMade = (encoding: Encoding) => isWorthIt && (encoding === "gzip" || encoding === "br" && size <= KEPT_SIZE);
    return accepted.find((encoding) =>
      encoding === "identity" || variants.beside.includes(encoding) || isMade(encoding)
    ) ??
      "identity";
  }

  /** Returns the variant of a file in an encoding; requests at the same time wait for the same work. */
  function encode(plain: Representation, encoding: Encoding): Promise<Representation> {
    const { variants } = plain;
    if (variants === undefined || encoding === "identity") return Promise.resolve(plain);
    const made = variants.made[encoding];
    if (made !== undefined && (made.entry === plain.entry || isCurrent(made.entry))) return Promise.resolve(made);
    const source = findBeside(plain.entry, encoding) ?? plain.entry;
    const mayBeKept = source === plain.entry || isSettled(source);
    const other = mayBeKept ? variants.making[encoding] : undefined;
    if (other?.source.file === source.file && isSameVersion(other.source.version, source.version)) return other.variant;

    const variant = makeVariant(plain, encoding, source, variants).then((variant) => {
      if (mayBeKept) {
        variants.made[encoding] = variant;
        memory.grow(encodePath(plain.entry.path), plain, footprintOf(variant));
      }
      return variant;
    }).finally(() => {
      if (variants.making[encoding]?.variant === variant) delete variants.making[encoding];
    });
    variants.making[encoding] = { source, variant };
    return variant;
  }

  /** Makes a variant of what lies beside the file, else of the file's own bytes. */
  async function makeVariant(
    plain: Representation,
    encoding: Encoding,
    source: Entry,
    variants: Variants,
  ): Promise<Representation> {
    if (source !== plain.entry) {
      try {
        return await represent(source, encoding, plain);
      } catch (error) {
        if (statusOf(error) >= 500) throw error; // else it is unreadable or gone, and as good as not there
      }
    }
    variants.beside = variants.beside.filter((other) => other !== encoding);
    if (encoding !== "br" && encoding !== "gzip") return plain;
    const { entry, validators } = plain;
    const fields = new Headers(plain.fields);
    fields.set("content-encoding", encoding);
    if (plain.body === undefined) {
      fields.delete("content-length"); // `stream` compresses it on its way
      return { entry, validators, fields, body: undefined };
    }
    const body = await compressBody(plain.body, encoding);
    if (body.length >= plain.body.length) return plain;
    fields.set("content-length", `${body.length}`);
    return { entry, validators, fields, body };
  }

  /** Returns the file that lies beside another in an encoding, unless it is older than that. */
  function findBeside({ path, version }: Entry, encoding: Encoding): Entry | undefined {
    const beside = locateUnlikely(path + SUFFIXES[encoding]);
    if (!beside?.isFile || (beside.version.mtime ?? 0) < (version.mtime ?? 0)) return undefined;
    return beside;
  }

  // 6. serveDir -----------------------------------------------------------------------------------------------------

  /** Makes the representation of a file, or of what lies beside `original` in another encoding. */
  async function represent(entry: Entry, encoding?: Encoding, original?: Representation): Promise<Representation> {
    const isKept = entry.version.size <= KEPT_SIZE;
    const { headers: fields } = await deliver("HEAD", entry);
    const bytes = isKept ? await Deno.readFile(entry.file) : undefined;
    fields.set("content-length", `${bytes?.length ?? entry.version.size}`);
    fields.set("content-type", contentType(entry.path, fields.get("content-type"), bytes ?? await readStart(entry)));
    const validators = live ? {} : await validatorsOf(entry.version, bytes);
    setValidators(fields, validators);
    if (original !== undefined && encoding !== undefined) {
      fields.set("content-type", original.fields.get("content-type")!);
      fields.set("content-encoding", encoding);
    }
    const isCompressible = isEncodable && COMPRESSIBLE.test(fields.get("content-type")!);
    if (isCompressible) fields.set("vary", "Accept-Encoding");
    finishFields(fields, 200);
    const representation: Representation = { entry, validators, fields, body: bytes && toStringIfAscii(bytes) };
    if (isCompressible && original === undefined) {
      const beside = ENCODINGS.filter((encoding) => encoding !== "identity" && findBeside(entry, encoding));
      representation.variants = { beside, made: {}, making: {} };
    }
    return representation;
  }

  /** Makes the representation of a folder: what `serveDir` lists of it. */
  async function list(entry: Entry): Promise<Representation> {
    const response = await deliver("GET", entry);
    const { headers: fields } = response;
    const body = await response.bytes();
    fields.delete("accept-ranges"); // it may be another list the next time
    fields.set("content-length", `${body.length}`);
    return { entry, validators: {}, fields, body };
  }

  /** Lets `serveDir` answer with a file, a range of it, or a folder's listing. */
  async function deliver(method: string, entry: Entry, range?: ByteRange): Promise<Response> {
    const { path, file, isFile } = entry;
    // `serveDir` takes dotfiles or leaves them; what `isHidden` lets pass is to it a folder of its own.
    const isOwnRoot = !dotfiles && path.includes("/.");
    const fsRoot = !isOwnRoot ? root : isFile ? dirname(file) : file;
    const servedPath = !isOwnRoot ? path : isFile ? `/${basename(path)}` : "/";
    const url = `http://localhost${encodePath(isFile || servedPath === "/" ? servedPath : `${servedPath}/`)}`;
    const fields: HeadersInit = range ? { range: `bytes=${range.start}-${range.end}` } : {};
    const response = await serveDir(new Request(url, { method, headers: fields }), {
      fsRoot,
      showIndex: false, // `respond` has looked for it, behind links too
      showDirListing: true, // `respond` has asked whether it may
      showDotfiles: dotfiles,
      quiet: true,
    });
    if (response.status === 500) {
      await readStart(entry); // throws what `serveDir` keeps to itself, such as a lack of permission
      throw new Deno.errors.Busy("serveDir answered 500, and can't say why");
    }
    if (!response.ok) throw new Deno.errors.NotFound("it went away since `locate` looked");
    response.headers.delete("server");
    return response;
  }

  // 7. Answer -------------------------------------------------------------------------------------------------------

  /** Answers with a file, or with the listing of a folder. */
  async function sendEntry(request: Request, entry: Entry): Promise<Response> {
    return send(request, await select(request, entry));
  }

  /**
   * Answers with a representation: whole, a range of it, or with 304, 412 or 416 where the request asks for that. What
   * goes straight back to `Deno.serve` shares its bytes with memory, which spares a copy of them for every answer.
   */
  function send(request: Request, representation: Representation, isShared = false): Response | Promise<Response> {
    const { method, headers } = request;
    const { entry, validators, fields, body, suffix } = representation;
    const status = evaluatePreconditions(headers, validators);
    if (status === 304) return notModified(representation);
    if (status === 412) return finish(request, fail(412));
    if (method === "HEAD") return new Response(noBody(fields), { headers: fields });

    const rangeField = headers.get("range");
    if (rangeField !== null && suffix === undefined && isRangeCurrent(headers.get("if-range"), validators)) {
      const size = body?.length ?? entry.version.size;
      const range = parseRange(rangeField, size);
      if (range === "unsatisfiable") return finish(request, fail(416, { "content-range": `bytes */${size}` }));
      if (range !== undefined) return sendRange(request, representation, range, size);
    }
    if (body === undefined) return stream(request, representation);
    if (!isShared) return new Response(body, { headers: fields });
    representation.ok ??= new Response(body, { headers: fields });
    return representation.ok.clone();
  }

  function notModified(representation: Representation): Response {
    if (representation.notModified === undefined) {
      const fields = new Headers();
      setValidators(fields, representation.validators);
      const vary = representation.fields.get("vary");
      if (vary !== null) fields.set("vary", vary);
      finishFields(fields, 304);
      representation.notModified = new Response(null, { status: 304, headers: fields });
    }
    return representation.notModified.clone();
  }

  /** Sends a file from the disk, compressed on its way where its fields say so. */
  async function stream(request: Request, { entry, fields, suffix }: Representation): Promise<Response> {
    const { size } = entry.version;
    const range = { start: 0, end: size - 1 };
    // What is followed by something has to end where it should, even of a growing file.
    const body = suffix ? (await deliver("GET", entry, range)).body! : await readRange(request, entry, range, size);
    const isCompressed = fields.has("content-encoding") && !fields.has("content-length");
    const transform = isCompressed ? new CompressionStream("gzip") : suffix && appending(suffix);
    return new Response(transform ? body.pipeThrough(transform) : body, { headers: fields });
  }

  /** Sends a range: from memory, read at once where it is small, else as a stream. */
  async function sendRange(
    request: Request,
    { entry, fields: fieldsOfAll, body }: Representation,
    range: ByteRange,
    size: number,
  ): Promise<Response> {
    const { start, end } = range;
    const length = end - start + 1;
    const fields = new Headers(fieldsOfAll);
    fields.set("content-range", `bytes ${start}-${end}/${size}`);
    fields.set("content-length", `${length}`);
    const part = body !== undefined
      ? body.slice(start, end + 1)
      : length <= KEPT_SIZE
      ? await readBytes(entry.file, start, length)
      : await readRange(request, entry, range, size);
    return new Response(part, { status: 206, headers: fields });
  }

  /** Returns a range of a file as a stream. */
  async function readRange(
    { headers }: Request,
    entry: Entry,
    range: ByteRange,
    size: number,
  ): Promise<ReadableStream<Uint8Array<ArrayBuffer>>> {
    // Deno sends an open file up to its end without going through JavaScript. It cuts off what a growing file has too much
    // over HTTP/1, which is what has a Host; in HTTP/2 that would be an error.
    if (range.end === size - 1 && headers.has("host")) {
      const file = await Deno.open(entry.file);
      await file.seek(range.start, Deno.SeekMode.Start);
      return file.readable;
    }
    return (await deliver("GET", entry, range)).body!;
  }

  // 8. Fallback -----------------------------------------------------------------------------------------------------

  /** Answers where nothing lies at the path: the page of a clean URL, the single-page app, or 404. */
  async function fallback(request: Request, path: string): Promise<Response> {
    existsSync ??= (await import("node:fs")).existsSync; // not before, for it would delay the first page
    const page = path.endsWith("/") ? undefined : locateUnlikely(`${path}.html`);
    if (page?.isFile) return sendEntry(request, page);
    const app = spa && extname(path) === "" ? locate(`/${INDEX}`) : undefined;
    if (app?.isFile) return sendEntry(request, app);
    return notFound(request, path);
  }

  /** Answers 404 with the `404.html` nearest to the path on the way up to the root, or with a plain line. */
  async function notFound(request: Request, path: string): Promise<Response> {
    let page: Entry | undefined;
    // From the root down, as far as there are folders: a path of 30,000 segments costs a look, not 30,000.
    let folder = "/";
    for (let depth = 0; depth < NOT_FOUND_DEPTH; depth++) {
      const candidate = locateUnlikely(folder + NOT_FOUND_PAGE);
      if (candidate?.isFile) page = candidate;
      folder = path.slice(0, path.indexOf("/", folder.length) + 1);
      if (folder === "" || !dotfiles && isHidden(folder) || locate(folder)?.isFile !== false) break;
    }
    if (page === undefined) return fail(404);
    const representation = await select(request, page, true).catch(() => undefined);
    if (representation === undefined) return fail(404); // a page that can't be read is none
    const fields = new Headers(representation.fields);
    for (const name of ["accept-ranges", "last-modified", "etag"]) fields.delete(name); // they are a 200's
    const body = representation.body ?? (await stream(request, representation)).body;
    return new Response(body, { status: 404, headers: fields });
  }

  // 9. Fields and log -----------------------------------------------------------------------------------------------

  /** Adds what every answer carries; the user's own fields come last and win. To do it twice changes nothing. */
  function finishFields(fields: Headers, status: number): void {
    fields.set("x-content-type-options", "nosniff");
    fields.set("cache-control", status < 400 ? cacheControl : errorCacheControl);
    if (cors) {
      fields.set("access-control-allow-origin", "*");
      fields.set("access-control-expose-headers", "*");
    }
    for (const [name] of headers) fields.delete(name);
    for (const [name, value] of headers) fields.append(name, value);
  }

  /** Logs a line: time, client address, method, target, status, bytes of the body, milliseconds. */
  function logAnswer(request: Request, response: Response, start: number, info?: Deno.ServeHandlerInfo): void {
    if (log === undefined) return;
    const now = Date.now();
    if (now !== clock.time) clock = { time: now, text: new Date(now).toISOString() };
    const address = (info?.remoteAddr as Deno.NetAddr | undefined)?.hostname ?? "-";
    const { status, headers } = response;
    const length = headers.get("content-length") ?? "-";
    log(`${clock.text} ${address} ${request.method} ${targetOf(request)} ${status} ${length} ${now - start}ms`);
  }

  /** Adds the fields of every answer to one that is not ready-made, and keeps its body from a HEAD. */
  function finish({ method }: Request, response: Response): Response {
    const { headers: fields, status, body } = response;
    finishFields(fields, status);
    if (method !== "HEAD" || body === null) return response;
    body.cancel();
    return new Response(noBody(fields), response);
  }
}

// Password ----------------------------------------------------------------------------------------------------------

/** The fields of a 401 (RFC 7617, 2 and 2.1). */
const CHALLENGE = { "www-authenticate": 'Basic realm="http-server", charset="UTF-8"' };

/** Returns credentials, or throws what they have to be; what they are instead may be a password. */
function checkCredentials(credentials: string): string {
  if (/^[^:\p{Cc}]*:\P{Cc}+$/u.test(credentials)) return credentials;
  throw new TypeError("auth takes USER:PASSWORD, with a colon, a password and no control characters");
}

/** Returns the `user:password` of an Authorization field (RFC 7617, 2), or nothing, which is never right. */
function parseCredentials(field: string | null): string {
  const [, token = ""] = /^Basic +([\w+/]+=*)$/i.exec(field ?? "") ?? [];
  try {
    return new TextDecoder("utf-8", { fatal: true }).decode(Uint8Array.fromBase64(token));
  } catch {
    return "";
  }
}

/** Returns a digest of credentials, in which an accented letter is the same however it was typed. */
function digest(credentials: string): Uint8Array {
  return nodeCrypto().createHash("sha256").update(credentials.normalize()).digest();
}

/** Whether two digests are the same; it takes as long for any two, so that nobody can guess the password by parts. */
function isEqual(one: Uint8Array, other: Uint8Array): boolean {
  return nodeCrypto().timingSafeEqual(one, other);
}

/** Returns a module that takes 30 ms to load, and is needed only where there is a password. */
function nodeCrypto() {
  return globalThis.process.getBuiltinModule("node:crypto");
}

// 1. Path -----------------------------------------------------------------------------------------------------------

/** Scheme, authority, path and query of a request's URL; Deno joins the first three without looking at them. */
const URL_PARTS = /^[^:/?#]+:\/\/[^/?#]*([^?#]*)(\?[^#]*)?/;

/** `uri-host [ ":" port ]` (RFC 9110, 7.2; RFC 3986, 3.2.2). */
const HOST = /^(?:\[[\da-f:.%]+\]|[\w.~!$&'()*+,;=%-]*)(?::\d*)?$/i;

/** Whether a Host field names a host; one with a slash in it would become part of the path. HTTP/2 and 1.0 have none. */
function isHostValid(host: string | null): boolean {
  return host === null || HOST.test(host);
}

/** Returns the tidied path and the raw query of a request, or undefined where the target or the Host is malformed. */
function parseTarget(request: Request): { path: string; query: string } | undefined {
  if (!isHostValid(request.headers.get("host"))) return undefined;
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
  if (/[\0\\]/.test(path)) return undefined;
  const tidy = normalize(`/${path}`);
  return /\/\.{1,2}$/.test(path) && tidy !== "/" ? `${tidy}/` : tidy; // `/a/.` is a folder (RFC 3986, 5.2.4)
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

// 4. Memory ---------------------------------------------------------------------------------------------------------

/** The largest file whose bytes are kept in memory. */
const KEPT_SIZE = 1 << 20;

/** How many bytes memory keeps in all. */
const MEMORY_LIMIT = 64 << 20;

/** What a representation takes in memory besides its bytes: fields, ready-made answers, file information. */
const OVERHEAD = 5 << 10;

/** For how long after a change a file is not kept, in milliseconds: FAT's clock, the coarsest, ticks every two seconds. */
const SETTLING_TIME = 2000;

/** Keeps the values that were used last, up to a limit of bytes. */
export class Memory<Value> {
  #limit: number;
  #size = 0;
  #items = new Map<string, { value: Value; size: number }>();
  #latest: string | undefined;

  constructor(limit: number) {
    this.#limit = limit;
  }

  /** How many bytes are kept. */
  get size(): number {
    return this.#size;
  }

  get(key: string): Value | undefined {
    const item = this.#items.get(key);
    if (item !== undefined && key !== this.#latest) this.#touch(key, item);
    return item?.value;
  }

  set(key: string, value: Value, size: number): void {
    this.delete(key);
    this.#touch(key, { value, size });
    this.#size += size;
    this.#evict();
  }

  /** Counts more bytes to a value, if it is still kept. */
  grow(key: string, value: Value, size: number): void {
    const item = this.#items.get(key);
    if (item?.value !== value) return;
    item.size += size;
    this.#size += size;
    this.#evict();
  }

  delete(key: string): void {
    this.#size -= this.#items.get(key)?.size ?? 0;
    this.#items.delete(key);
  }

  /** Puts an item last: a Map keeps the order of insertion, and what comes first goes first. */
  #touch(key: string, item: { value: Value; size: number }): void {
    this.#items.delete(key);
    this.#items.set(key, item);
    this.#latest = key;
  }

  #evict(): void {
    for (const key of this.#items.keys()) {
      if (this.#size <= this.#limit) return;
      this.delete(key);
    }
  }
}

function footprintOf({ body }: Representation): number {
  if (body === undefined) return OVERHEAD;
  return OVERHEAD + (typeof body === "string" ? body.length : 2 * body.length); // a ready-made answer has a copy of bytes
}

function versionOf({ size, mtime, ctime, ino, dev }: Deno.FileInfo): Version {
  return { size, mtime: mtime?.getTime(), ctime: ctime?.getTime(), inode: ino, device: dev };
}

function isSameVersion(one: Version, other: Version): boolean {
  return one.size === other.size && one.mtime === other.mtime && one.ctime === other.ctime &&
    one.inode === other.inode && one.device === other.device;
}

/** Whether a file may be kept: written a moment ago, it may be again with no difference that the disk's clock shows. */
function isSettled({ version }: Entry): boolean {
  return Date.now() - Math.max(...timesOf(version)) > SETTLING_TIME;
}

/** When a file was last changed, in milliseconds: its bytes, and anything about it. */
function timesOf({ mtime = 0, ctime = 0 }: Version): number[] {
  return [mtime, ctime];
}

// 5. Variant --------------------------------------------------------------------------------------------------------

/** The size from which on a file is compressed, in bytes: a smaller one fits into one packet as it is. */
const COMPRESSED_SIZE = 1024;

/** How many different Accept-Encoding fields are remembered; browsers send a handful. */
const NEGOTIATED_LIMIT = 100;

/** The types that shrink; images, films, fonts for the web and archives are compressed already. */
const COMPRESSIBLE =
  /^(?:text\/|(?:application|image|model)\/(?:[\w.-]+\+)?(?:json|xml|javascript|x-javascript|ecmascript|wasm|x-sh|toml|yaml|sql|graphql|rtf|manifest|x-ndjson|vnd\.ms-fontobject|bmp|x-ms-bmp|vnd\.microsoft\.icon)|font\/(?:ttf|otf|collection))/;

/** Returns the encodings that a client accepts, the best first: by its weights, then by ours (RFC 9110, 12.5.3). */
export function acceptedEncodings(field: string): Encoding[] {
  const weights = new Map<string, number>();
  for (const item of field.toLowerCase().split(",")) {
    const [, coding, weight = "1"] = /^\s*([^\s;]+)\s*(?:;\s*q=([01](?:\.\d{0,3})?))?\s*$/.exec(item) ?? [];
    if (coding !== undefined) weights.set(coding.replace(/^x-(?=gzip$)/, ""), Number(weight));
  }
  // Without a word on it identity is acceptable, but less than what is asked for.
  const weightOf = (encoding: Encoding) =>
    weights.get(encoding) ?? weights.get("*") ?? (encoding === "identity" ? Number.MIN_VALUE : 0);
  return ENCODINGS.filter((encoding) => weightOf(encoding) > 0).sort((a, b) => weightOf(b) - weightOf(a));
}

/**
 * The first request waits for the compressor. Measured on this file, of 63 KB: Brotli 5 takes 2 ms to 19.3 KB, 9 takes 24 ms
 * to 19.0 KB, and 11, the library's default, 119 ms to 17.4 KB; gzip 6 takes 1.4 ms to 20.0 KB, and 9 2.3 ms to 19.9 KB.
 */
const BROTLI_QUALITY = 5;
const GZIP_LEVEL = 6;

/** Compresses the bytes of a file; Deno does that on the main thread, so nothing else is answered meanwhile. */
async function compressBody(body: string | Uint8Array, encoding: "br" | "gzip"): Promise<Uint8Array<ArrayBuffer>> {
  const { brotliCompress, constants, gzip } = await import("node:zlib"); // not before, for it delays the start
  return new Uint8Array(
    encoding === "br"
      ? await promisify(brotliCompress)(body, { params: { [constants.BROTLI_PARAM_QUALITY]: BROTLI_QUALITY } })
      : await promisify(gzip)(body, { level: GZIP_LEVEL }),
  );
}

/** Returns ASCII bytes as a string, and all others as they are. */
function toStringIfAscii(bytes: Uint8Array<ArrayBuffer>): string | Uint8Array<ArrayBuffer> {
  try {
    const text = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(bytes);
    return text.length === bytes.length ? text : bytes; // every other character is longer in UTF-8
  } catch {
    return bytes;
  }
}

// 6. serveDir -------------------------------------------------------------------------------------------------------

/** How much of a file without a known extension is looked at, in bytes. */
const SNIFFED_LENGTH = 1024;

/** Returns the first bytes of a file, none of a folder; throws where it can't be read. */
async function readStart({ file, isFile }: Pick<Entry, "file" | "isFile">): Promise<Uint8Array> {
  if (!isFile) {
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
  return isText(start.subarray(0, SNIFFED_LENGTH)) ? "text/plain; charset=UTF-8" : "application/octet-stream";
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

// 7. Answer ----------------------------------------------------------------------------------------------------------

/** What tells one version of a file from another (RFC 9110, 8.8); empty where the disk has no time. */
export interface Validators {
  /** Weak, for every encoding made of the same bytes has the same. */
  etag?: string;
  /** `Last-Modified`, and the same in milliseconds. */
  lastModified?: string;
  modified?: number;
}

/**
 * Returns the validators of a file: a tag of its bytes where they are at hand, for two edits can come faster than the
 * disk's clock ticks; else of its size, times and inode.
 */
async function validatorsOf(version: Version, bytes?: Uint8Array<ArrayBuffer>): Promise<Validators> {
  const { size, mtime, inode } = version;
  if (mtime === undefined) return {};
  const etag = await eTag(bytes ?? [size, ...timesOf(version), inode].join(" "), { weak: true });
  const lastModified = new Date(mtime).toUTCString();
  return { etag, lastModified, modified: Date.parse(lastModified) };
}

/** Sets the validators in place of those of `serveDir`. */
function setValidators(fields: Headers, { etag, lastModified }: Validators): void {
  fields.delete("etag");
  fields.delete("last-modified");
  if (etag !== undefined) fields.set("etag", etag);
  if (lastModified !== undefined) fields.set("last-modified", lastModified);
}

/** An HTTP-date in any of its three forms (RFC 9110, 5.6.7); what `Date.parse` takes beyond them is no date here. */
const HTTP_DATE =
  /^[A-Z][a-z]{2,8}(?:, \d\d[ -][A-Z][a-z]{2}[ -](?:\d\d){1,2} \d\d:\d\d:\d\d GMT| [A-Z][a-z]{2} [ \d]\d \d\d:\d\d:\d\d \d{4})$/;

/** Returns the time of an HTTP-date in milliseconds, or NaN, which compares false with every time. */
function parseDate(value: string): number {
  if (!HTTP_DATE.test(value)) return NaN;
  return Date.parse(value.endsWith("GMT") ? value : `${value} GMT`);
}

/** Returns the status that a request's conditional fields lead to, in the order of RFC 9110, 13.2.2. */
export function evaluatePreconditions(request: Headers, validators: Validators): 200 | 304 | 412 {
  const { etag, lastModified, modified = NaN } = validators;
  const ifMatch = request.get("if-match");
  if (ifMatch !== null) {
    // Compared strongly, which a weak tag never passes (13.1.1).
    if (ifMatch !== "*") return 412;
  } else {
    const since = request.get("if-unmodified-since");
    if (since !== null && modified > parseDate(since)) return 412;
  }
  const tags = request.get("if-none-match");
  if (tags !== null) return ifNoneMatch(tags, etag) ? 200 : 304;
  const since = request.get("if-modified-since");
  return since !== null && (since === lastModified || modified <= parseDate(since)) ? 304 : 200;
}

/** Whether `If-Range` lets a range through: only the file's own date does, a weak tag never (RFC 9110, 13.1.5). */
function isRangeCurrent(ifRange: string | null, { modified }: Validators): boolean {
  return ifRange === null || parseDate(ifRange) === modified;
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

/** Returns the body of an answer to HEAD: to none Deno adds a length of 0, to a stream none. */
function noBody(fields: Headers): ReadableStream | null {
  return fields.has("content-length") ? null : new Blob().stream();
}

/** Returns bytes of a file; throws where it has become shorter. */
async function readBytes(path: string, start: number, length: number): Promise<Uint8Array<ArrayBuffer>> {
  using file = await Deno.open(path);
  await file.seek(start, Deno.SeekMode.Start);
  const bytes = new Uint8Array(length);
  for (let filled = 0; filled < length;) {
    const count = await file.read(bytes.subarray(filled));
    if (count === null) throw new Deno.errors.NotFound(`${path} was cut short`);
    filled += count;
  }
  return bytes;
}

// 9. Fields and log -------------------------------------------------------------------------------------------------

/** The status of what the file system says, by the error's name or code; nothing else of it reaches the client. */
const ERROR_STATUS: Record<string, StatusCode> = {
  NotFound: 404,
  NotADirectory: 404, // a path through a file
  FilesystemLoop: 404, // links in a circle
  ENAMETOOLONG: 404,
  InvalidData: 404, // a link to a name that is not UTF-8
  IsADirectory: 404, // it was a file when it was looked at
  PermissionDenied: 403,
  NotCapable: 403, // the sandbox forbids it
  EMFILE: 503, // too many open files
  ENFILE: 503,
  Busy: 503,
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

/** Returns the target of a request as the log has it: without the authority, which may hold a password. */
function targetOf({ url }: Request): string {
  return toAscii(url.slice(url.indexOf("/", url.indexOf(":") + "://".length)));
}

/** Returns a text with all but the visible ASCII percent-encoded: nothing in it can break a line or a field. */
function toAscii(text: string): string {
  if (!/[^\x21-\x7e]/.test(text)) return text;
  return text.toWellFormed().replace(/[^\x21-\x7e]/gu, encodeURIComponent);
}

// Live reload -------------------------------------------------------------------------------------------------------

/** Where live reload has what is its own: in a dot-folder, where nothing else is served but with `dotfiles`. */
const LIVE_SCRIPT_PATH = "/.live-reload/script.js";
const LIVE_EVENTS_PATH = "/.live-reload/events";

/** How long nothing may change before a change is told, in milliseconds: a build writes many files, an editor some. */
const QUIET_TIME = 100;

/** How long changes may go on before the operator is told that nothing reloads meanwhile, in milliseconds. */
const LONG_BURST = 10_000;

/** How often it is asked whether the root is still the same folder, in milliseconds: the one that left tells no more. */
const ROOT_INTERVAL = 1000;

/** How long after the end the watching goes on, in milliseconds: longer than a stop takes. */
const CLOSE_DELAY = 4000;

/** How many changed files are remembered one by one, and how many style sheets are told so. */
const CHANGES_LIMIT = 1000;
const STYLES_LIMIT = 50;

/** How many changes a page may leave unread before its event stream ends; if it is still there, it comes again. */
const UNREAD_LIMIT = 10;

/** A style sheet, and the map that a compiler writes beside it. */
const STYLE_SHEET = /\.css(?:\.map)?$/i;

/** What runs in every page; a file of its own, for a content-security policy may forbid what a page has inline. */
const LIVE_SCRIPT = `"use strict"; // http-server --live: reloads the page when a file changes
{
  const script = document.currentScript;
  script.remove(); // the page is to be what it is without it
  const isStandIn = "standIn" in script.dataset;
  const started = Symbol.for("http-server --live");
  let version, events;

  // A browser has no more than six connections to a server. So a page in a frame leaves it to the page around it, and
  // a page that nobody sees asks when it is seen again.
  if (script.src && !(started in window) && !isFramed()) {
    window[started] = true;
    version = new URL(script.src).search; // of the root, when the page was read
    document.addEventListener("visibilitychange", listen);
    listen();
  }

  function isFramed() {
    try {
      return parent !== window && parent.location.origin === location.origin;
    } catch {
      return false;
    }
  }

  function listen() {
    events?.close();
    if (document.hidden) return;
    events = new EventSource(new URL("events" + version, script.src));
    events.onmessage = ({ data }) => {
      const change = JSON.parse(data);
      version = "?" + change.version;
      const isSwapped = change.styles.length > 0 && change.styles.every(swap);
      if (!isSwapped) reload();
    };
    events.onerror = ({ target }) => {
      if (target.readyState === EventSource.CLOSED) return; // forbidden: by a policy, or for lack of the password
      target.close();
      setTimeout(listen, 1000);
    };
  }

  // Has a style sheet loaded anew, where the page or a frame of it links to it.
  function swap(path) {
    const links = documents(window).flatMap((document) => [...document.querySelectorAll("link[rel~=stylesheet]")]);
    const changed = links.filter((link) => isAt(link, path));
    for (const link of changed) link.href = link.href.replace(/[?#].*|$/, version);
    return changed.length > 0;
  }

  function isAt({ href }, path) {
    try {
      const { origin, pathname } = new URL(href);
      return origin === location.origin && decodeURIComponent(pathname) === path;
    } catch {
      return false; // it is no URL
    }
  }

  function documents(window) {
    try {
      return [window.document, ...Array.from(window.frames).flatMap(documents)];
    } catch {
      return []; // it is of another origin
    }
  }

  // A page that is gone, as in the middle of a build, stays in sight until it is back; it takes ranges, which a listing
  // or a 404 in its place does not.
  async function reload() {
    events.close(); // its connection may be the last one
    const { headers } = await fetch(location.href, { method: "HEAD" }).catch(() => new Response());
    const isPage = headers.get("content-type")?.startsWith("text/html");
    if (isPage && (isStandIn || headers.has("accept-ranges"))) location.reload();
    else listen();
  }
}
`;

/** What the pipeline asks of live reload. */
interface LiveReload {
  /** Returns the version of the root, which is another after every change. */
  version(): string;
  /** Answers with the script, or with the events since the version that the query names. */
  respond(path: string, query: string): Response | undefined;
}

/**
 * Follows the changes under a root, and tells them to the pages that listen, until `signal` aborts. A page knows from which
 * version of the root on it was read, so that it misses no change: neither while it loads nor while the server is away.
 */
function startLiveReload(root: string, dotfiles: boolean, signal?: AbortSignal): LiveReload {
  let version = crypto.randomUUID();
  const listeners = new Set<ReadableStreamDefaultController<ServerSentEventMessage>>();
  let changes = new Set<string>();
  let burstStart = 0;
  let complaint = "";
  let quietTimer: ReturnType<typeof setTimeout> | undefined;
  let identity = identify(root);
  let realRoot = Deno.realPathSync(root);
  let watch = watchRoot();

  const rootTimer = setInterval(ensureWatched, ROOT_INTERVAL);
  signal?.addEventListener("abort", stop);
  return { respond, version: () => version };

  function respond(path: string, query: string): Response | undefined {
    if (path === LIVE_SCRIPT_PATH) {
      const fields = { "content-type": "text/javascript; charset=UTF-8", "content-length": `${LIVE_SCRIPT.length}` };
      return new Response(LIVE_SCRIPT, { headers: fields });
    }
    if (path !== LIVE_EVENTS_PATH) return undefined;
    let listener: ReadableStreamDefaultController<ServerSentEventMessage>;
    const events = new ReadableStream<ServerSentEventMessage>({
      start(controller) {
        if (signal?.aborted) return controller.close();
        listener = controller;
        listeners.add(listener);
        if (query !== `?${version}`) listener.enqueue(message([]));
      },
      cancel: () => void listeners.delete(listener),
    });
    const body = events.pipeThrough(new ServerSentEventStream());
    return new Response(body, { headers: { "content-type": "text/event-stream" } });
  }

  /** Says that there is a new version, and which style sheets are all the difference, where that is so. */
  function message(styles: string[]): ServerSentEventMessage {
    return { data: JSON.stringify({ version, styles }) };
  }

  function watchRoot() {
    try {
      const watcher = Deno.watchFs(root);
      return { watcher, end: follow(watcher) };
    } catch (error) {
      throw new Error(`${nameOf(root)} can't be watched: ${reasonOf(error)}`);
    }
  }

  async function follow(watcher: Deno.FsWatcher): Promise<void> {
    for (;;) {
      try {
        for await (const { kind, paths } of watcher) {
          if (kind === "access") continue; // it was read, or closed after what has been told already
          for (const file of paths) note(file);
        }
        return;
      } catch (error) { // such as a new folder that can't be read, or a name that is not UTF-8
        complainOnce(`a change may be missed: ${reasonOf(error)}`);
        note(root);
      }
    }
  }

  function complainOnce(text: string): void {
    if (text !== complaint) complain(text);
    complaint = text;
  }

  /** Keeps a change in mind until nothing more changes. */
  function note(file: string): void {
    if (!dotfiles && isHidden(pathOf(file))) return;
    if (changes.size === 0) burstStart = Date.now();
    if (Date.now() - burstStart > LONG_BURST) complainOnce("files keep changing; pages reload when they come to rest");
    if (changes.size === CHANGES_LIMIT) changes = new Set([root]); // as good as everything
    changes.add(file);
    clearTimeout(quietTimer);
    quietTimer = setTimeout(tell, QUIET_TIME);
  }

  /** Returns the path that a file is served at. */
  function pathOf(file: string): string {
    const folder = isInside(root, file) ? root : realRoot; // macOS knows files by their real paths
    return normalize(`/${file.slice(folder.length).replaceAll(SEPARATOR, "/")}`);
  }

  async function tell(): Promise<void> {
    if (!await ensureWatched()) return;
    const paths = [...changes].filter(isThere).map(pathOf); // an editor's temporary files are gone by now
    changes = new Set();
    const isStyle = paths.length <= STYLES_LIMIT && paths.every((path) => STYLE_SHEET.test(path));
    version = crypto.randomUUID();
    const change = message(isStyle ? paths.filter((path) => !path.endsWith("map")) : []);
    for (const listener of listeners) {
      listener.enqueue(change);
      if (listener.desiredSize! < -UNREAD_LIMIT) end(listener);
    }
  }

  /** Watches the folder that has taken the root's place, as after `rm -r dist` and a new build; false where one has. */
  async function ensureWatched(): Promise<boolean> {
    const found = identify(root);
    if (found === identity) return true;
    identity = undefined;
    watch.watcher.close();
    await watch.end; // else Deno takes the new folder for the watched one
    if (found === undefined || found === identity || signal?.aborted) return false;
    try {
      realRoot = Deno.realPathSync(root);
      watch = watchRoot();
      identity = found;
      note(root);
    } catch (error) {
      complainOnce(reasonOf(error)); // it is tried again
    }
    return false;
  }

  function stop(): void {
    clearInterval(rootTimer);
    clearTimeout(quietTimer);
    listeners.forEach(end);
    // Not at once, for it may hang, and a program that ends does without: where a FIFO has come into the folder, Deno waits
    // for its writer, with a lock in its hand.
    setTimeout(() => watch.watcher.close(), CLOSE_DELAY);
  }

  function end(listener: ReadableStreamDefaultController): void {
    listener.close();
    listeners.delete(listener);
  }
}

/** Returns what tells a folder from another in its place, or undefined where there is none. */
function identify(folder: string): string | undefined {
  try {
    const { dev, ino, birthtime } = Deno.statSync(folder);
    return [dev, ino, birthtime?.getTime()].join(" "); // an inode's number may be given again at once
  } catch {
    return undefined;
  }
}

function isThere(file: string): boolean {
  try {
    Deno.lstatSync(file);
    return true;
  } catch {
    return false;
  }
}

/** Whether a request is for a document of its own, not for a fragment that a script asks for (Fetch Metadata, 2.1). */
function isForDocument({ headers }: Request): boolean {
  return /^(?:document|i?frame|object|embed)$/.test(headers.get("sec-fetch-dest") ?? "document");
}

/** Whether a script can be added; what the user declares to be encoded isn't what it seems. */
function isPage({ fields }: Representation): boolean {
  return fields.get("content-type")!.startsWith("text/html") && !fields.has("content-encoding");
}

/**
 * Returns a page with the script's element at its end; one in UTF-16 as it is. A page that stands in for another, such as
 * a listing for a missing index.html, says so.
 */
async function addScript(page: Representation, version: string, isStandIn: boolean): Promise<Representation> {
  const { entry, validators, body } = page;
  const start = typeof body === "string" ? undefined : body ?? await readStart(entry);
  if (start !== undefined && /feff|fffe/.test(start.subarray(0, 2).toHex())) return page;
  const attribute = isStandIn ? " data-stand-in" : "";
  const element = `<script async src="${LIVE_SCRIPT_PATH}?${version}"${attribute}></script>\n`;
  const suffix = new TextEncoder().encode(element);
  const fields = new Headers(page.fields);
  fields.set("content-length", `${Number(fields.get("content-length")) + suffix.length}`);
  if (body === undefined) return { entry, validators, fields, body, suffix };
  return { entry, validators, fields, body: await new Blob([body, suffix]).bytes() };
}

/** Returns a stream that passes on what it is given, and then the suffix. */
function appending(suffix: Uint8Array<ArrayBuffer>): TransformStream<Uint8Array<ArrayBuffer>, Uint8Array<ArrayBuffer>> {
  return new TransformStream({ flush: (controller) => controller.enqueue(suffix) });
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
  live: { type: "boolean", help: "reload pages in the browser when a file changes" },
  cors: { type: "boolean", help: "let pages of every origin read the answers" },
  header: { type: "string", multiple: true, value: '"NAME: VALUE"', help: "set a field on every answer; repeatable" },
  "max-age": {
    type: "string",
    value: "SECONDS",
    help: "let browsers keep an answer that long [default: ask each time]",
  },
  "no-compress": { type: "boolean", help: "send files as they are, never compressed" },
  auth: { type: "string", value: "USER:PASSWORD", help: "ask every client for this name and password" },
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
  if (values.live && values["max-age"] !== undefined) {
    throw new CommandError(2, "--live lets browsers keep nothing, so --max-age can't go with it.");
  }
  return {
    options: {
      ...root === undefined ? {} : { root },
      listing: !values["no-listing"],
      dotfiles: values.dotfiles,
      symlinks: values.symlinks,
      spa: values.spa,
      cors: values.cors,
      compress: !values["no-compress"],
      headers: values.header?.map(parseHeader),
      maxAge: parseNumber("--max-age", values["max-age"], 2 ** 31),
      live: values.live,
      auth: parseAuth(values.auth),
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

function parseAuth(value: string | undefined): string | undefined {
  try {
    return value === undefined ? undefined : checkCredentials(value);
  } catch (error) {
    throw new CommandError(2, `--${(error as Error).message}.`);
  }
}

function parseHeader(field: string): [name: string, value: string] {
  // Trimmed before `Headers` looks: behind leading white space it lets line breaks through.
  const [, name = "", value = ""] = /^([^:]*):\s*(.*?)\s*$/s.exec(field) ?? [];
  try {
    new Headers([[name, value]]);
  } catch {
    throw new CommandError(2, `--header takes "Name: value", not ${JSON.stringify(field)}.`);
  }
  if (!/^[\t\x20-\x7e\x80-\xff]*$/.test(value)) { // RFC 9110, 5.5; `Headers` lets more pass
    throw new CommandError(2, `--header can't send the control characters in ${JSON.stringify(field)}.`);
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

/** How long to wait before connections are accepted again, in milliseconds. */
const RETRY_DELAY = 100;

/** How long connections with nothing on its way may hold up a stop, in milliseconds. */
const STOP_GRACE = 3000;

async function serve(command: Command): Promise<number> {
  const root = resolve(command.options.root ?? DEFAULTS.root);
  await checkRoot(root);
  const log = command.quiet ? undefined : openLog();
  const stop = new AbortController();
  const { signal } = stop;
  const { handler, inFlight } = counted(createHandler({ ...command.options, root, signal, log: log?.write }));
  let server = listen(command, handler);
  const { port } = server.addr;
  const { isStopping, cutShort, abandoned } = watchSignals(() => {
    stop.abort();
    server.shutdown();
  }, inFlight);
  globalThis.addEventListener("unhandledrejection", (event) => {
    event.preventDefault(); // `serveDir` forgets a promise when a folder goes away while it is listed
    complain(reasonOf(event.reason));
  });
  announce(command, root, server.addr);

  const finished = async () => {
    for (let isAgain = false;; isAgain = true) {
      try {
        if (isAgain) {
          await new Promise((resolve) => setTimeout(resolve, RETRY_DELAY));
          server = listen({ ...command, port }, handler);
        }
        await server.finished;
        return 0;
      } catch (error) {
        if (isStopping()) return 0;
        // Without a free file descriptor Deno stops accepting for good, where a moment later there may be one.
        complain(`it could not accept a connection: ${reasonOf(error)}`);
      }
    }
  };
  const exitCode = await Promise.race([finished(), abandoned, cutShort]);
  if (exitCode === 0 && log !== undefined) return await Promise.race([log.flush().then(() => 0), cutShort]);
  return exitCode;
}

/** Counts the answers on their way; what comes from memory is handed to the system at once. */
function counted(handle: Handler): { handler: Handler; inFlight(): number } {
  let count = 0;
  const handler: Handler = (request, info) => {
    const answer = handle(request, info);
    if (answer instanceof Promise && info !== undefined) {
      count++;
      info.completed.catch(() => {}).finally(() => count--); // it rejects when the client goes away
    }
    return answer;
  };
  return { handler, inFlight: () => count };
}

/**
 * Calls `shutdown` at the first signal to stop. `cutShort` resolves to the exit code at the second; `abandoned` does when
 * nothing has been on its way for a while: a client that has said hello and nothing more, or owes a body that nobody
 * wants, is not waited for.
 */
function watchSignals(shutdown: () => void, inFlight: () => number) {
  const cutShort = Promise.withResolvers<number>();
  const abandoned = Promise.withResolvers<number>();
  let stopping: number | undefined;
  const onSignal = () => {
    if (stopping !== undefined) {
      if (performance.now() - stopping > SAME_SIGNAL) cutShort.resolve(130);
      return;
    }
    stopping = performance.now();
    if (Deno.stdout.isTerminal()) console.log("\nStopping when what is in flight is done; Ctrl-C again stops at once.");
    shutdown();
    let idleSince = stopping;
    setInterval(() => {
      if (inFlight() > 0) idleSince = performance.now();
      else if (performance.now() - idleSince > STOP_GRACE) abandoned.resolve(0);
    }, 100);
  };
  Deno.addSignalListener("SIGINT", onSignal);
  if (Deno.build.os !== "windows") Deno.addSignalListener("SIGTERM", onSignal); // Windows has none
  return { isStopping: () => stopping !== undefined, cutShort: cutShort.promise, abandoned: abandoned.promise };
}

/** Asks what the sandbox allows before trying: a permission prompt would stop a server that nobody watches. */
function isAllowed(descriptor: Deno.PermissionDescriptor): boolean {
  try {
    return Deno.permissions.querySync(descriptor).state === "granted";
  } catch {
    return true; // it is no address; `Deno.serve` says so in better words
  }
}

async function checkRoot(root: string): Promise<void> {
  requireRead(root);
  let info;
  try {
    info = await Deno.stat(root);
    if (info.isDirectory) await readStart({ file: root, isFile: false });
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
          complain(`an answer broke off: ${reasonOf(error)}`);
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

/** Tells the operator, where that is possible: a full disk behind stderr is no reason to stop. */
function complain(text: string): void {
  try {
    console.error(`http-server: ${text}`);
  } catch {
    // There is nobody else to tell.
  }
}

/** Returns the first line of an error, as the end of a sentence. */
function reasonOf(error: unknown): string {
  const text = error instanceof Error ? error.message : String(error);
  return text.replace(/\.?(\n.*)?$/s, "");
}

/** Returns a root as a person knows it. */
function nameOf(root: string): string {
  return Deno.build.standalone && root === DEFAULTS.root ? "the www folder inside this program" : root;
}

/** Returns an address as it stands in a URL: IPv6 in brackets (RFC 3986, 3.2.2). */
function bracketed(address: string): string {
  return address.includes(":") ? `[${address}]` : address;
}

/** Says what is served and where: to a person in a few lines, to a file or a program in the first one. */
function announce({ host, port: named, tls, options }: Command, root: string, { hostname, port }: Deno.NetAddr): void {
  const urlOf = (address: string) => `${tls ? "https" : "http"}://${bracketed(address)}:${port}/`;
  const isEverywhere = hostname === "0.0.0.0" || hostname === "::";
  const isPrivate = hostname === "::1" || hostname.startsWith("127.");
  const url = urlOf(isEverywhere ? "localhost" : host);
  const folder = nameOf(root);
  const note = named === undefined && port !== DEFAULT_PORT ? ` (port ${DEFAULT_PORT} is taken)` : "";
  const unencrypted = tls ? "" : " Without HTTPS (--cert and --key) it can be read on the wire.";
  const remarks = [
    ...options.live ? ["Pages reload when a file changes."] : [],
    ...options.auth === undefined ? [] : [`It asks for the password.${unencrypted}`],
  ];
  if (!Deno.stdout.isTerminal()) return console.log([`Serving ${folder} at ${url}${note}`, ...remarks].join("\n"));

  const bold = "font-weight: bold";
  const link = `${bold}; color: green`;
  console.log("Serving %c%s%c\n     at %c%s%c%s", bold, folder, "", link, url, "", note);
  const network = isEverywhere && isAllowed({ name: "sys", kind: "networkInterfaces" })
    ? Deno.networkInterfaces().find(({ family, address }) => family === "IPv4" && !address.startsWith("127."))
    : undefined;
  if (network) console.log("    and %c%s", link, urlOf(network.address));
  if (!isPrivate) console.log("Other machines can reach it too; --host 127.0.0.1 keeps it to this one.");
  for (const remark of remarks) console.log(remark);
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
    written ??= new Promise((resolve) => setTimeout(resolve, LOG_DELAY)).then(writeWaiting);
  }

  async function writeWaiting(): Promise<void> {
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

  async function flush(): Promise<void> {
    await written;
    await writeWaiting();
  }

  return { write, flush };
}

if (import.meta.main) Deno.exit(await main(Deno.args));
