// What people give a page and take from it: files that they choose or drop, and answers that they save.
// The page of btc-edge serve has it, and that of btc-export --web.

/** Have `take` called with the files that are chosen in an input element, as {file, path, inFolder}. */
export function whenChosen(input, take) {
  input.addEventListener("change", () => {
    const files = chosen(input.files);
    input.value = ""; // so that the same file can be chosen again
    void take(files);
  });
}

/** Likewise with those that are dropped, folders too; `say` is called where they cannot be read. */
export function whenDropped(take, say) {
  // Anywhere: a file that is dropped beside a target would replace the page.
  document.addEventListener("dragover", (event) => {
    event.preventDefault();
    document.body.classList.add("over");
  });
  document.addEventListener("dragleave", (event) => {
    if (!event.relatedTarget) document.body.classList.remove("over");
  });
  document.addEventListener("drop", (event) => {
    event.preventDefault();
    document.body.classList.remove("over");
    dropped(event.dataTransfer).then(take, () => say("What was dropped cannot be read."));
  });
}

/** Have the browser save answers as a file. */
export function save(answers) {
  const address = URL.createObjectURL(new Blob([JSON.stringify(answers, null, 2)], { type: "application/json" }));
  const link = document.createElement("a");
  link.href = address;
  link.download = "btc-edge-answers.json";
  link.click();
  setTimeout(() => URL.revokeObjectURL(address), 60_000);
}

/** A file with the path that it is shown under. */
const named = (file, path) => ({ file, path: path || file.name, inFolder: path.includes("/") });

const chosen = (list) => [...list].map((file) => named(file, file.webkitRelativePath));

async function dropped(transfer) {
  // Items are there during the event only: all are taken before the first wait.
  const items = [...transfer.items].filter(({ kind }) => kind === "file");
  const taken = items.map((item) => {
    const entry = item.webkitGetAsEntry?.();
    // Files as such: Chromium lets a page that is opened from a disk read no entry.
    return entry?.isDirectory ? walk(entry) : [named(item.getAsFile(), "")];
  });
  return (await Promise.all(taken)).flat();
}

async function walk(entry) {
  if (entry.isFile) {
    const file = await new Promise((resolve, reject) => entry.file(resolve, reject));
    return [named(file, entry.fullPath.replace(/^\//, ""))];
  }
  const reader = entry.createReader();
  const files = [];
  for (;;) { // a folder is given in parts
    const part = await new Promise((resolve, reject) => reader.readEntries(resolve, reject));
    if (!part.length) return files;
    for (const inner of part) files.push(...await walk(inner));
  }
}
