// Uploads a file with tus-js-client: options as JSON in the first argument, its folder in the second.
import { createReadStream } from "node:fs";
import { createRequire } from "node:module";
import { PassThrough } from "node:stream";

const options = JSON.parse(process.argv[2]);
const tus = createRequire(`${process.argv[3]}/`)("tus-js-client");
const file = createReadStream(options.file);
// A file tells its size, and the client would then never send the length that it has deferred.
const source = options.deferred ? file.pipe(new PassThrough()) : file;
const upload = new tus.Upload(source, {
  endpoint: options.url,
  metadata: options.metadata,
  chunkSize: options.chunk || Infinity,
  uploadLengthDeferred: options.deferred,
  uploadDataDuringCreation: options.during,
  overridePatchMethod: options.override,
  parallelUploads: options.parallel,
  retryDelays: Array(options.retries).fill(0),
  onError: (error) => { console.error(String(error)); process.exit(1); },
  onSuccess: () => console.log(JSON.stringify({ url: upload.url })),
});
upload.start();
