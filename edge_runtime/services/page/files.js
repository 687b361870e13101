// How files are sent: a parcel is what one request carries.

import { zipOf } from "./zip.js";

const HEAD = 352; // bytes that tell what a file is
const DICOM_NAME = /\.(dcm|dicom|ima)$/i;

const ascii = (head, from, to) => String.fromCharCode(...head.subarray(from, to));

/** What a file is: `dicom`, `picture`, `volume`, `zip`, or null for what is not read. */
export function kindOf(head, name) {
  if (ascii(head, 128, 132) === "DICM" || DICOM_NAME.test(name)) return "dicom";
  const start = ascii(head, 0, 4);
  if (/^(\xff\xd8\xff|\x89PNG|BM|II[*+]\0|MM\0[*+]|GIF8)/.test(start)) return "picture";
  if (start === "RIFF" && ascii(head, 8, 12) === "WEBP") return "picture";
  if (/^PK(\x03\x04|\x05\x06)/.test(start)) return "zip";
  if (start.startsWith("\x1f\x8b")) return "volume";
  const isNifti = /^n[i+]1\0$/.test(ascii(head, 344, 348)) || /^n[i+]2\0$/.test(ascii(head, 4, 8));
  return isNifti ? "volume" : null;
}

/**
 * What is to be sent of some files, and what is passed over.
 *
 * All DICOM files go into one zip under numbers, so that no name of a file leaves the browser: which of
 * them belong together, the server sees. Anything else goes by itself. Of a folder, what is not read is
 * passed over; a file that was chosen by itself is sent, and the server says what is wrong.
 *
 * @returns {Promise<{parcels: Parcel[], passedOver: {input: string, reason: string}[]}>} where a Parcel
 *   has a title, its size in bytes, `isStudy` (whether one answer is asked for all of its slices), `names` of its
 *   members by those that answers call them, and `body()`.
 */
export async function sorted(files) {
  const parcels = [];
  const passedOver = [];
  const series = [];
  for (const one of files) {
    const { file, path, inFolder } = one;
    const isIndex = /(^|\/)DICOMDIR$/i.test(path); // it lists people, and names that are not sent
    let head;
    try {
      head = new Uint8Array(await file.slice(0, HEAD).arrayBuffer());
    } catch {
      passedOver.push({ input: path, reason: "cannot be read" });
      continue;
    }
    const kind = kindOf(head, path);
    if (isIndex && files.length > 1) passedOver.push({ input: path, reason: "an index of files" });
    else if (kind === "dicom") series.push(one);
    else if (kind === null && inFolder) {
      passedOver.push({ input: path, reason: "neither a picture, DICOM, a volume nor a zip" });
    } else parcels.push(alone(one, kind));
  }
  if (series.length === 1) parcels.unshift(alone(series[0], "dicom"));
  else if (series.length) parcels.unshift(together(series));
  return { parcels, passedOver };
}

const alone = ({ file, path }, kind) => ({
  title: path,
  size: file.size,
  isStudy: kind === "dicom" || kind === "volume",
  names: new Map(),
  body: async () => file,
});

function together(series) {
  const members = series.map(({ file }, at) => [String(at + 1).padStart(5, "0"), file]);
  const folders = new Set(series.map(({ path }) => path.split("/").slice(0, -1).join("/")));
  const folder = folders.size === 1 ? [...folders][0] : "";
  return {
    title: `${folder ? `${folder}: ` : ""}${series.length} DICOM files`,
    size: series.reduce((sum, { file }) => sum + file.size, 0),
    isStudy: false, // the server sorts a zip into studies and pictures
    names: new Map(members.map(([name], at) => [name, series[at].path])),
    body: () => zipOf(members),
  };
}
