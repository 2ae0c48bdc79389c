// Parses the Mermaid diagrams of Markdown files: node check_diagrams.cjs mermaid.min.js FILE...
// MkDocs copies a diagram as it is, so a mistake in one would only be seen by who opens the page.
const fs = require("fs");
const vm = require("vm");

// What Mermaid touches of a browser when it loads. Parsing needs no more.
globalThis.window = globalThis;
globalThis.Element = class {};
globalThis.addEventListener = () => {};
globalThis.document = { nodeType: 9, implementation: {}, createElement: () => ({}), addEventListener: () => {} };

const [library, ...files] = process.argv.slice(2);
vm.runInThisContext(fs.readFileSync(library, "utf8"));

async function main() {
  let diagrams = 0;
  for (const file of files) {
    for (const [, diagram] of fs.readFileSync(file, "utf8").matchAll(/^```mermaid\n([^]*?)^```$/gm)) {
      diagrams += 1;
      try {
        await globalThis.mermaid.parse(diagram);
      } catch (error) {
        console.error(`${file}: Mermaid cannot read this diagram. ${error.message}`);
        process.exitCode = 1;
      }
    }
  }
  console.log(`${diagrams} Mermaid diagrams parsed`);
}

main();
