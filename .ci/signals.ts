/**
 * Makes every byte of standard input a Ctrl-C. The tests load it before the server on Windows, where a process can't send
 * signals to another one.
 */

Deno.addSignalListener = async (_signal, listener) => {
  for await (const bytes of Deno.stdin.readable) bytes.forEach(() => listener());
};
