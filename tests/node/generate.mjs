// Prints the continuation of a prompt as JSON: MODEL PROMPT TOKENS GPU_LAYERS. The log goes to stderr.
import {getLlama} from 'node-llama-cpp';

const [model_path, prompt, tokens, gpu_layers] = process.argv.slice(2);
const log = (level, message) => process.stderr.write(`[${level}] ${message}\n`);
const llama = await getLlama({build: 'never', skipDownload: true, gpu: false, logLevel: 'debug', progressLogs: false, logger: log});
const model = await llama.loadModel({modelPath: model_path, gpuLayers: Number(gpu_layers)});
const context = await model.createContext({contextSize: 256, threads: 1});
const generated = [];
for await (const token of context.getSequence().evaluate(model.tokenize(prompt), {temperature: 0})) {
    generated.push(token);
    if (generated.length >= Number(tokens)) {
        break;
    }
}
console.log(JSON.stringify(model.detokenize(generated)));
await llama.dispose();
