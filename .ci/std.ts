/**
 * Provides the @std modules if jsr.io can't be reached, and does nothing otherwise.
 *
 * Deno looks for `jsr:` modules in `vendor/` first (`"vendor": true` in deno.json). If that folder is empty and jsr.io
 * doesn't respond, this script copies the same code there from npm's `deno-std`. That package is plain JavaScript, so
 * the script adds loose type declarations for the functions that the project calls. `vendor/` is never committed; delete
 * it to start over.
 *
 * Every task of deno.json runs `deno task std` first. The script may reach jsr.io, write to `vendor/` and run `deno`, which
 * downloads the package. Before it has run, `deno run server.ts` without jsr.io ends with "JSR package manifest for
 * '@std/http' failed to load" and a stack backtrace of Deno.
 *
 * @module
 */

const NPM_PACKAGE = "deno-std@1.4.0";

interface Package {
  version: string;
  exports: Record<string, [file: string, types: string]>;
}

/** The exports that the project imports, each with its file in the npm package and its type declarations. */
const PACKAGES: Record<"http" | "path" | "assert", Package> = {
  http: {
    version: "1.1.3",
    exports: {
      "./file-server": [
        "http/file_server",
        `export interface ServeDirOptions {
           fsRoot?: string; urlRoot?: string; showDirListing?: boolean; showDotfiles?: boolean; showIndex?: boolean;
           enableCors?: boolean; quiet?: boolean; etagAlgorithm?: AlgorithmIdentifier; headers?: string[];
         }
         export function serveDir(request: Request, options?: ServeDirOptions): Promise<Response>;`,
      ],
      "./etag": [
        "http/etag",
        `export function eTag(entity: string | Uint8Array<ArrayBuffer>, options?: { weak?: boolean }): Promise<string>;
         export function ifMatch(value: string | null, etag: string | undefined): boolean;
         export function ifNoneMatch(value: string | null, etag: string | undefined): boolean;`,
      ],
      "./negotiation": [
        "http/negotiation",
        `export function accepts(request: Pick<Request, "headers">, ...types: string[]): string | undefined;`,
      ],
      "./server-sent-event-stream": [
        "http/server_sent_event_stream",
        `export interface ServerSentEventMessage {
           comment?: string; event?: string; data?: string; id?: string | number; retry?: number;
         }
         export class ServerSentEventStream extends TransformStream<ServerSentEventMessage, Uint8Array<ArrayBuffer>> {}`,
      ],
      "./status": [
        "http/status",
        `export type StatusCode = number;
         export const STATUS_TEXT: Record<StatusCode, string>;`,
      ],
    },
  },
  path: {
    version: "1.1.6",
    exports: {
      ".": [
        "path/mod",
        `export const SEPARATOR: string;
         export function basename(path: string | URL, suffix?: string): string;
         export function dirname(path: string | URL): string;
         export function extname(path: string | URL): string;
         export function fromFileUrl(url: string | URL): string;
         export function join(path?: string | URL, ...paths: string[]): string;
         export function relative(from: string, to: string): string;
         export function resolve(...paths: string[]): string;
         export function toFileUrl(path: string): URL;`,
      ],
      "./basename": ["path/basename", `export function basename(path: string | URL, suffix?: string): string;`],
      "./constants": ["path/constants", `export const SEPARATOR: string;`],
      "./dirname": ["path/dirname", `export function dirname(path: string | URL): string;`],
      "./posix/glob-to-regexp": [
        "path/posix/glob_to_regexp",
        `export function globToRegExp(glob: string, options?: { globstar?: boolean; os?: string }): RegExp;`,
      ],
      "./posix/extname": ["path/posix/extname", `export function extname(path: string | URL): string;`],
      "./join": ["path/join", `export function join(path?: string | URL, ...paths: string[]): string;`],
      "./posix/normalize": ["path/posix/normalize", `export function normalize(path: string | URL): string;`],
      "./resolve": ["path/resolve", `export function resolve(...paths: string[]): string;`],
    },
  },
  assert: {
    version: "1.0.19",
    exports: {
      ".": [
        "assert/mod",
        `export class AssertionError extends Error {}
         export function assert(expression: unknown, message?: string): asserts expression;
         export function assertEquals<T>(actual: T, expected: T, message?: string): void;
         export function assertNotEquals<T>(actual: T, expected: T, message?: string): void;
         export function assertMatch(actual: string, expected: RegExp, message?: string): void;
         export function assertNotMatch(actual: string, expected: RegExp, message?: string): void;
         export function assertStringIncludes(actual: string, expected: string, message?: string): void;
         export function assertThrows<E extends Error>(
           fn: () => unknown, ErrorClass?: abstract new (...args: never[]) => E, messageIncludes?: string,
         ): E;
         export function assertRejects<E extends Error>(
           fn: () => PromiseLike<unknown>, ErrorClass?: abstract new (...args: never[]) => E, messageIncludes?: string,
         ): Promise<E>;
         export function fail(message?: string): never;`,
      ],
    },
  },
};

/** Small modules that `http/file_server.js` imports but the npm package lacks. */
const MISSING: Record<string, string> = {
  "http/unstable_header.js": `export const HEADER = {
    AcceptRanges: "Accept-Ranges", AccessControlAllowHeaders: "Access-Control-Allow-Headers",
    AccessControlAllowOrigin: "Access-Control-Allow-Origin", ContentLength: "Content-Length",
    ContentRange: "Content-Range", ContentType: "Content-Type", ETag: "ETag",
    IfModifiedSince: "If-Modified-Since", IfNoneMatch: "If-None-Match", LastModified: "Last-Modified", Range: "Range",
  };`,
  "http/unstable_method.js": `export const METHOD = { Get: "GET", Head: "HEAD" };`,
  "http/deno.json": `{ "version": "${PACKAGES.http.version}" }`,
  "html/unstable_html.js":
    `export const html = (strings, ...values) => String.raw({ raw: strings }, ...values.map((value) => value ?? ""));`,
  "fs/exists.js": `export const exists = (path) => Deno.stat(path).then(() => true, () => false);`,
  "media-types/content_type.js": `export * from "../media_types/content_type.js";`,
  "net/network_address.js": `export const getNetworkAddress = () => undefined;`,
};

/** Deno stores a vendored file under a hash if its name is longer than 30 characters, so this name is shortened. */
const LONG_NAME = "unstable_get_network_address.js";
const SHORT_NAME = "network_address.js";

const vendor = new URL("../vendor/jsr.io/@std/", import.meta.url);

/** Reports whether the vendor folder has every module that the project imports now. */
async function isVendored(): Promise<boolean> {
  try {
    for (const [name, { version, exports }] of Object.entries(PACKAGES)) {
      const { latest } = JSON.parse(await Deno.readTextFile(new URL(`${name}/meta.json`, vendor)));
      if (latest !== version) continue; // laid by Deno itself, from jsr.io
      const about = JSON.parse(await Deno.readTextFile(new URL(`${name}/${version}_meta.json`, vendor)));
      if (!Object.keys(exports).every((key) => Object.hasOwn(about.exports, key))) return false;
    }
    return true;
  } catch {
    return false;
  }
}

async function reachesJsr(): Promise<boolean> {
  try {
    const signal = AbortSignal.timeout(10_000);
    const response = await fetch("https://jsr.io/@std/http/meta.json", { signal, method: "HEAD" });
    return response.ok;
  } catch {
    return false;
  }
}

/** Installs the npm package with Deno and returns its folder. */
async function installFromNpm(folder: string): Promise<string> {
  await Deno.writeTextFile(`${folder}/deno.json`, `{ "nodeModulesDir": "auto" }`);
  const args = ["install", "--quiet", `npm:${NPM_PACKAGE}`];
  const { success, stderr } = await new Deno.Command("deno", { args, cwd: folder }).output();
  if (!success) {
    throw new Error(`can't download @std from jsr.io or npm: ${new TextDecoder().decode(stderr).trim()}`);
  }
  return `${folder}/node_modules/deno-std`;
}

/** Returns the text of `entry` and of every module that it imports, by path below `source`. */
async function collect(source: string, entry: string, files = new Map<string, string>()): Promise<Map<string, string>> {
  if (files.has(entry)) return files;
  const text = MISSING[entry] ?? await Deno.readTextFile(`${source}/${entry}`);
  files.set(entry, text.replaceAll(LONG_NAME, SHORT_NAME));
  for (const [, specifier] of files.get(entry)!.matchAll(/^(?:import|export|\}).*?"(\.\.?\/[^"]+)"/gm)) {
    const path = new URL(specifier!, `file:///${entry}`).pathname.slice(1);
    await collect(source, path, files);
  }
  return files;
}

/** Writes one package in the layout of Deno's vendor folder: its files, their manifest, and the list of versions. */
async function vendorPackage(source: string, name: string, { version, exports }: Package): Promise<void> {
  const files = new Map<string, string>();
  for (const [file, types] of Object.values(exports)) {
    await collect(source, `${file}.js`, files);
    files.set(
      `${file}.js`,
      `// @ts-self-types="./${file.split("/").at(-1)}.d.ts"\n${files.get(`${file}.js`)!.replace(/^#!.*\n/, "")}`,
    );
    files.set(`${file}.d.ts`, types);
  }
  const manifest: Record<string, { size: number; checksum: string }> = {};
  for (const [path, text] of files) {
    const bytes = new TextEncoder().encode(text);
    const checksum = new Uint8Array(await crypto.subtle.digest("SHA-256", bytes)).toHex();
    manifest[`/${path}`] = { size: bytes.length, checksum: `sha256-${checksum}` };
    const target = new URL(`${name}/${version}/${path}`, vendor);
    await Deno.mkdir(new URL(".", target), { recursive: true });
    await Deno.writeFile(target, bytes);
  }
  const entries = Object.entries(exports).map(([key, [file]]) => [key, `./${file}.js`]);
  const about = { manifest, exports: Object.fromEntries(entries) };
  await Deno.writeTextFile(new URL(`${name}/${version}_meta.json`, vendor), JSON.stringify(about));
  // Write this file last, because `isVendored` looks for it.
  await Deno.writeTextFile(
    new URL(`${name}/meta.json`, vendor),
    JSON.stringify({ scope: "std", name, latest: version, versions: { [version]: {} } }),
  );
}

if (!await isVendored() && !await reachesJsr()) {
  await Deno.mkdir("vendor", { recursive: true });
  const folder = await Deno.makeTempDir({ dir: "vendor" }); // the script may write nowhere else
  try {
    const source = await installFromNpm(folder);
    for (const [name, about] of Object.entries(PACKAGES)) await vendorPackage(source, name, about);
    console.error(`can't reach jsr.io: vendor/ contains the @std modules of npm's ${NPM_PACKAGE}`);
  } catch (error) {
    console.error(error instanceof Error ? error.message : error);
    Deno.exitCode = 1;
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
}
