/** Starts the server with other limits, which are the first argument as percent-encoded JSON. */

import { LIMITS, main } from "../server.ts";

const [limits = "%7B%7D", ...args] = Deno.args;
Deno.exit(await main(args, { ...LIMITS, ...JSON.parse(decodeURIComponent(limits)) }));
