return {
  { name = "model", summary = "A language model: weights, tokenizer and the table of its sites.",
    text = [[
pb.load opens one, pb.model makes one of tensors, and model:with replaces weights. Numbers are Hugging Face's: raw weights, computed in float32 whatever the stored type. Layers, heads,
positions, neurons and token ids count from 0.
Fields: name, folder, family, layers, heads, kv_heads, d_model, d_head, d_mlp, vocab, max_positions, parameters, weight_bytes,
tokenizer, has_tokenizer, config, storage, dtypes, streamed.]] },
  { name = "pb.load", signature = "pb.load(name [, { fold_ln =, center_writing_weights =, center_unembed =, fold_value_biases =, stream = }]) -> model",
    summary = "Open a model by name, folder or Hugging Face id.",
    text = [[
name: a built-in model ("facts" or "facts-free"), a folder with config.json and model.safetensors or pytorch_model.bin (or their shards), a .gguf
file, a folder with one and no other weights, or a Hugging Face id ("org/name", "org/name@revision") that is in the local hub
cache: on the command line, patchbay get org/name downloads it (patchbay help get). Folders are looked for beside the recipe, in the
output folder (what model:save wrote) and in the current folder; the name of a built-in model means that one, "./facts" a folder. The
weights are mapped, not read: a large file
opens in milliseconds.
fold_ln to fold_value_biases are TransformerLens's weight processing, each by itself and off by default; they change the values of
sites (and center_unembed the logits by a constant per position), not what the model predicts.
stream = true keeps no more of the weights in memory than one layer at a time, for models bigger than memory: the next layer is
fetched from the file while the present one computes, once per sweep for all variants together. Values are the same to the bit.
It happens by itself, with a warning, when the weights as stored do not fit what is left of the memory budget (--memory), to which
the largest layer is then charged. Not together with weight processing, which makes float32 copies.
GGUF: tensors of F32, F16, BF16 and Q8_0; the file's metadata are the configuration and, unless a tokenizer.json lies beside it, the
tokenizer. Weights have the names and shapes of a Hugging Face folder. What such a file stores otherwise is copied into memory when it
is opened: q and k of llama, olmo, granite and smollm3, fused q, k and v of gptneox, bloom and falcon, the matrices of gpt2, and
Q8_0, which becomes float32 (four times the size in the file). What llama.cpp does not write down is not known: Mistral's window,
Gemma's query_pre_attn_scalar where it is not the usual one.
Of a multimodal Gemma 3 the text model is read.
Errors name the file, the tensor or the key that is wrong; an unknown architecture lists the known ones.]],
    example = [[local model = pb.load "facts"]] },
  { name = "pb.model", signature = "pb.model { config = table | text | model, weights = { name = tensor }, tokenizer =, name = } -> model",
    summary = "A model whose weights are tensors in memory.",
    text = [[
config: what a config.json says, as a table, as JSON text, or the model to take it (and the tokenizer) from. weights: a float32
tensor for every weight that the configuration asks for, under the checkpoint's names and in its shapes (model:weights() of such a
model lists them). tokenizer: a tokenizer, or a model to take it from; without one the model knows token ids only.
The tensors are shared, not copied: after they were changed in place (training), call model:refresh(); runs made before keep
what they remember. A tied unembedding is not given, or is the embedding's own tensor. Two weights must not share memory.]],
    example = [[local weights = {}
for _, name in ipairs(model:weights()) do weights[name] = model:weight(name) end
local copy = pb.model { config = model, weights = weights }]] },
  { name = "model:with", signature = "model:with { [name] = tensor, ... } -> model", summary = "A model with some weights replaced; it shares all others.",
    text = [[
Names are those of model:weights(), shapes those of model:weight(name). The tensors are shared, as in pb.model. The old model stays
as it is. Weight processing that the model was loaded with is done again.]],
    example = [[local name = "transformer.h.3.mlp.c_proj.weight"
local edited = model:with { [name] = model:weight(name) + delta }]] },
  { name = "model:refresh", signature = "model:refresh() -> model", summary = "Take in changes of tensors that are the model's weights.",
    text = "Matrices are read where they are; norms and biases are copies, which this makes anew. Costs microseconds." },
  { name = "model:save", signature = "model:save(folder [, { dtype = \"f32\" | \"f16\" | \"bf16\" }])",
    summary = "Write the model as a Hugging Face folder.",
    text = [[
The folder (below the output folder) gets model.safetensors under the checkpoint's names, config.json, and the tokenizer's files
where the model came from a folder. dtype: by default the one that all weights have, or f32 where they differ, so that nothing is
lost; a value that f16 cannot hold is an error. transformers and pb.load read it. A model with weight processing is refused.]],
    example = [[model:with({ [name] = tensor }):save("edited", { dtype = "bf16" })]] },
  { name = "model:run", signature = "model:run(text | ids [, { bos = }]) -> run",
    summary = "One forward pass over a prompt.",
    text = [[
A text is tokenized; a list of token ids is taken as it is. bos: whether the beginning-of-text token is put in front of a text;
by default as the model's tokenizer does. Empty prompts, ids outside the vocabulary and prompts longer than the model's
positions are errors.]],
    example = [[local clean = model:run "The Eiffel Tower is located in the city of"
local ids   = model:run { 15, 3, 27 }]] },
  { name = "model:runs", signature = "model:runs(list [, { bos = }]) -> list of runs",
    summary = "Many prompts, of any lengths, in one pass over the weights.",
    text = "Entries are texts or lists of ids. Each run equals, bit for bit, the one that model:run gives. Nothing is padded." },
  { name = "model:encode", signature = "model:encode(text [, { bos = }]) -> list of ids", summary = "The token ids of a text.",
    text = "bos as in model:run." },
  { name = "model:decode", signature = "model:decode(ids [, { skip_special = false }]) -> text", summary = "The text of token ids.",
    text = "skip_special leaves out tokens such as <|endoftext|>." },
  { name = "model:token", signature = "model:token(text) -> id", summary = "The id of a text that is exactly one token.",
    text = "Anything else is an error that shows the pieces. Most words need the space in front of them: \" Paris\"." },
  { name = "model:tokens", signature = "model:tokens(text | ids [, { bos = }]) -> list of { id =, label = }",
    summary = "How a text is cut into tokens; prints as a table of position, id and token." },
  { name = "model:label", signature = "model:label(id) -> text", summary = "A token with spaces and newlines made visible, as figures show it." },
  { name = "model:sites", signature = "model:sites() -> list of names", summary = "Full names of all sites, in the order of the computation.",
    text = [[
Names and shapes are TransformerLens's. Which sites a model has depends on its family. Mixtures of experts have mlp.hook_expert_weights
[pos, expert] (the router's softmax), mlp.hook_expert_indices [pos, choice] (the experts of each position), and of each expert
mlp.experts.3.hook_gate, hook_pre and hook_post [pos, d_mlp] (short: "experts.3.post"): the branch with the activation, before it; the
other one; and what the expert's last matrix reads, not times the expert's weight. A position where the router did not choose the expert has
zeros there, and a gradient of zero. A patch changes the positions where the patched run chooses the expert; nothing reads it at the
others, and where that are all of them it is refused, as any patch that nothing reads.]] },
  { name = "model:site", signature = "model:site(name) -> table", summary = "What a site is: its axes, heads, width and layers.",
    text = [[
name: short ("z", "resid_pre") or full ("blocks.3.attn.hook_z"). Fields of the result: name (short), axes (list of "pos", "head",
"neuron", "dest", "src"), heads (k and v: key-value heads), width and width_name of the last axis, layers (those that have it;
absent for sites outside the layers), layer (of a full name), expert (of an expert's).]] },
  { name = "model:weight", signature = "model:weight(name) -> tensor", summary = "A weight by its name in the checkpoint, as float32, as stored." },
  { name = "model:weights", signature = "model:weights() -> list of names", summary = "The names that model:weight takes." },
  { name = "model:parameter", signature = "model:parameter(name) -> tensor", summary = "A weight by TransformerLens's name, in its shape.",
    text = [[
embed.W_E [vocab, d_model], pos_embed.W_pos, blocks.i.attn.W_Q [heads, d_model, d_head], W_K and W_V (key-value heads), W_O [heads,
d_head, d_model], b_Q ..., b_O, blocks.i.mlp.W_in [d_model, d_mlp], W_gate, W_out, b_in, b_out, blocks.i.ln1.w, ln1.b, ln2.*,
ln_final.*, unembed.W_U [d_model, vocab], b_U. Absent biases are zeros. A copy.]] },
  { name = "model:hash", signature = "model:hash() -> text", summary = "SHA-256 of the configuration and the weight files, in hexadecimal.",
    text = [[
Reads the files: seconds for large models. Asked again for files that have not changed since (path, size, time of change), it
comes from a note in ~/.cache/patchbay (XDG_CACHE_HOME is honoured). Weights that are tensors count with their present values.]] },
  { name = "model:generate",
    signature = "model:generate { prompt, tokens = 20, temperature = 0, top_k =, seed =, stop =, patches =, bos =, ids = false } -> text [, ids]",
    summary = "Continue a prompt, with patches held in place.",
    text = [[
prompt: a text, a list of ids, or a run. Gives the text of prompt and continuation together, without special tokens (for a model
without tokenizer: all ids); ids = true gives the list of new ids as a second value.
temperature 0 always takes the likeliest token; above 0 tokens are drawn with `seed` (the recipe's by default), among the top_k
likeliest if given. stop: a token or a list of them (texts or ids) after which generation ends. patches: a list of patches; "all"
positions cover the new ones, listed positions stay where they are in the prompt.]],
    example = [[print(model:generate { "The Colosseum is located in the city of", tokens = 8,
                       patches = { { site = "resid_post", layer = 3, add = direction } } })]] },
  { name = "model.name", signature = "model.name -> text", summary = "The folder's name, or the Hugging Face id that was asked for." },
  { name = "model.folder", signature = "model.folder -> text", summary = "Where the model's files are; empty for a model made in memory." },
  { name = "model.family", signature = "model.family -> text", summary = "The architecture as config.json names it: \"gpt2\", \"llama\"." },
  { name = "model.config", signature = "model.config -> table", summary = "What config.json says (a new table each time)." },
  { name = "model.layers", signature = "model.layers -> number", summary = "Number of layers; they are 0 to layers - 1." },
  { name = "model.heads", signature = "model.heads -> number", summary = "Attention heads (of queries) per layer." },
  { name = "model.kv_heads", signature = "model.kv_heads -> number", summary = "Key-value heads per layer: fewer than heads where queries share them." },
  { name = "model.d_model", signature = "model.d_model -> number", summary = "Width of the residual stream." },
  { name = "model.d_head", signature = "model.d_head -> number", summary = "Width of a head." },
  { name = "model.d_mlp", signature = "model.d_mlp -> number", summary = "Neurons of an MLP." },
  { name = "model.vocab", signature = "model.vocab -> number", summary = "Size of the vocabulary; ids are 0 to vocab - 1." },
  { name = "model.max_positions", signature = "model.max_positions -> number", summary = "Longest prompt; 0 where the architecture sets no limit." },
  { name = "model.parameters", signature = "model.parameters -> number", summary = "Number of weights; tied ones count once." },
  { name = "model.weight_bytes", signature = "model.weight_bytes -> number", summary = "Bytes of the weights as stored." },
  { name = "model.streamed", signature = "model.streamed -> true or false", summary = "Whether only one layer of the weights at a time is kept in memory (pb.load's stream)." },
  { name = "model.storage", signature = "model.storage -> text", summary = "What the weights are stored in: \"safetensors (2 files)\", \"GGUF (1 file) and memory (3 tensors)\"." },
  { name = "model.dtypes", signature = "model.dtypes -> text", summary = "Stored types of the weights, most bytes first: \"BF16 and F32\"." },
  { name = "model.tokenizer", signature = "model.tokenizer -> tokenizer", summary = "The model's tokenizer; an error where the folder has none." },
  { name = "model.has_tokenizer", signature = "model.has_tokenizer -> true or false", summary = "Whether the folder has a tokenizer.json." },
}
