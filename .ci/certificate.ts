/** Makes the certificate that the HTTPS tests use. */

/** Returns a new self-signed certificate for `localhost` and its key, both as PEM (RFC 5280; X.690). */
export async function makeCertificate(): Promise<{ cert: string; key: string }> {
  const algorithm = {
    name: "RSASSA-PKCS1-v1_5",
    hash: "SHA-256",
    modulusLength: 2048,
    publicExponent: new Uint8Array([1, 0, 1]),
  };
  const { publicKey, privateKey } = await crypto.subtle.generateKey(algorithm, true, ["sign", "verify"]);
  const der = (tag: number, ...parts: Uint8Array[]): Uint8Array<ArrayBuffer> => {
    const length = parts.reduce((sum, part) => sum + part.length, 0);
    const size = length < 128 ? [length] : length < 256 ? [0x81, length] : [0x82, length >> 8, length & 255];
    return new Uint8Array([tag, ...size, ...parts.flatMap((part) => [...part])]);
  };
  const text = (tag: number, value: string) => der(tag, new TextEncoder().encode(value));
  const oid = (...bytes: number[]) => der(6, new Uint8Array(bytes));
  const sha256WithRsa = der(0x30, oid(42, 134, 72, 134, 247, 13, 1, 1, 11), der(5));
  const name = der(0x30, der(0x31, der(0x30, oid(85, 4, 3), text(0x0c, "localhost"))));
  const validity = der(0x30, text(0x17, "200101000000Z"), text(0x17, "491231235959Z"));
  const alternativeNames = der(0x30, oid(85, 29, 17), der(4, der(0x30, text(0x82, "localhost"))));
  const toBeSigned = der(
    0x30,
    der(0xa0, der(2, new Uint8Array([2]))),
    der(2, new Uint8Array([1])),
    sha256WithRsa,
    name,
    validity,
    name,
    new Uint8Array(await crypto.subtle.exportKey("spki", publicKey)),
    der(0xa3, der(0x30, alternativeNames)),
  );
  const signature = new Uint8Array(await crypto.subtle.sign(algorithm.name, privateKey, toBeSigned));
  const pem = (label: string, bytes: Uint8Array) =>
    `-----BEGIN ${label}-----\n${bytes.toBase64().replace(/.{64}/g, "$&\n")}\n-----END ${label}-----\n`;
  return {
    cert: pem("CERTIFICATE", der(0x30, toBeSigned, sha256WithRsa, der(3, new Uint8Array([0]), signature))),
    key: pem("PRIVATE KEY", new Uint8Array(await crypto.subtle.exportKey("pkcs8", privateKey))),
  };
}
