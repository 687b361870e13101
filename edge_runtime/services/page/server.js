// What the page asks of its server, and why that may fail, in words.

/** A request that was not answered; `status` is 0 where the server was not reached. */
export class Refused extends Error {
  constructor(status, words, retryAfter = null) {
    super(words);
    this.status = status;
    this.retryAfter = retryAfter;
  }

  /** Whether the same request may be answered soon. */
  get isBusy() {
    return this.status === 503 || this.status === 429;
  }
}

const UNREACHED = "The server cannot be reached. Nothing is lost: send again once it is there.";
const WORDS = {
  408: "Sending took too long.",
  413: "Larger than this server takes.",
  429: "The server is busy.",
  503: "The server is busy.",
  504: "The answer took too long.",
};

function refusal(status, body, retryAfter) {
  if (status === 401) return new Refused(status, "This server asks for a token."); // of no header
  const seconds = Number.parseInt(retryAfter ?? "", 10);
  let words = WORDS[status] ?? `The server refuses this (${status}).`;
  try {
    const { error } = JSON.parse(body);
    if (typeof error === "string" && error) words = error;
  } catch {
    // Not of btc-edge, such as a proxy's own page: the status says enough.
  }
  return new Refused(status, words, Number.isNaN(seconds) ? null : seconds);
}

const bearer = (token) => (token ? { Authorization: `Bearer ${token}` } : {});

/**
 * What the server says of itself.
 * @throws {Refused}
 */
export async function askInfo(token) {
  let answer;
  try {
    answer = await fetch("v1/info", { headers: bearer(token), cache: "no-store" });
  } catch {
    throw new Refused(0, UNREACHED);
  }
  if (!answer.ok) throw refusal(answer.status, await answer.text(), null);
  return answer.json();
}

/**
 * The answers for a file: an array as of `btc-edge classify --format json`, with pictures.
 *
 * @param {Blob} body
 * @param {boolean} isStudy whether one answer is asked for each patient's study, not for each slice.
 * @param {string} token
 * @param {AbortSignal} signal ends the request.
 * @param {(share: number) => void} onSent told how much has been sent, from 0 to 1.
 * @throws {Refused}
 */
export function classify(body, isStudy, token, signal, onSent) {
  return new Promise((resolve, reject) => {
    const request = new XMLHttpRequest(); // fetch does not tell how much has been sent
    request.open("POST", `v1/classify?pictures=1${isStudy ? "&study=1" : ""}`);
    request.setRequestHeader("Content-Type", "application/octet-stream");
    for (const [name, value] of Object.entries(bearer(token))) request.setRequestHeader(name, value);
    request.upload.onprogress = (event) => event.total && onSent(event.loaded / event.total);
    request.onerror = () => reject(new Refused(0, UNREACHED));
    request.onabort = () => reject(new Refused(0, "Stopped."));
    signal.addEventListener("abort", () => request.abort());
    request.onload = () => {
      if (request.status !== 200) {
        reject(refusal(request.status, request.responseText, request.getResponseHeader("Retry-After")));
        return;
      }
      try {
        const answers = JSON.parse(request.responseText);
        if (!Array.isArray(answers)) throw new TypeError();
        resolve(answers);
      } catch {
        reject(new Refused(200, "The server's answer cannot be read."));
      }
    };
    request.send(body);
  });
}
