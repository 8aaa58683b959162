return {
  { name = "patchbay.bpe", summary = "Byte-pair encoding: learning merges from counted words, and the files of a byte-level tokenizer.",
    text = [[
local bpe = require "patchbay.bpe"

A learner has vocab (the 256 byte characters at first) and merges, and grows in rounds: forced merges, words with other weights, tokens that
may not come about. bpe.SPACE is the character of a space.]],
    example = [[local bpe = require "patchbay.bpe"
local counts = {}
for _, word in ipairs(bpe.words(text)) do counts[word] = (counts[word] or 0) + 1 end
local learner = bpe.train(counts, 1000)
bpe.write("tok", learner.vocab, learner.merges)
local tokenizer = pb.tokenizer "tok"]] },
  { name = "patchbay.bpe.words", signature = "bpe.words(text) -> list", summary = "The words of an ASCII text as GPT-2 cuts it, in byte characters." },
  { name = "patchbay.bpe.byte_characters", signature = "bpe.byte_characters() -> table", summary = "GPT-2's printable character for each byte, 0 to 255." },
  { name = "patchbay.bpe.learner", signature = "bpe.learner([{ banned = { [token] = true } }]) -> learner",
    summary = "A vocabulary in the making: learner:merge(a, b), learner:grow(list of { word, weight }, done).",
    text = [[
merge adds one merge whatever the counts say. grow merges the pair of the largest weight (the last in byte order among equals) until
done(vocab, pieces) is true or no pair is left; pieces[word] is the word's parts. The order of the words decides how weights are summed.]] },
  { name = "patchbay.bpe.train", signature = "bpe.train(counts, size) -> learner", summary = "The plain algorithm on { [word] = count }, until the vocabulary has so many tokens." },
  { name = "patchbay.bpe.write", signature = "bpe.write(folder, vocab, merges [, { special = {}, context = 1024 }])",
    summary = "tokenizer.json, vocab.json, merges.txt and tokenizer_config.json in the output folder.",
    text = "special: tokens of the vocabulary that are never made from text; the first is the beginning and end of text." },
}
