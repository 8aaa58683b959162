-- Why is this answer wrong? Find the prompts of a data set that the model gets wrong, and the step and component at which the right token
-- is lost.                                            patchbay run examples/wrong_answer.lua [facts=facts_paraphrase most=3]
local pb = require "patchbay"
local data, trace = require "patchbay.data", require "patchbay.trace"
local arg = pb.params { model = "facts", facts = "facts_paraphrase", most = 3 }
local model = pb.load(arg.model)
local facts = data.facts(model, arg.facts, { unknown = "keep" })
print(("%.1f %% of the answers are right"):format(100 * facts:accuracy()))

local shown = 0
for _, fact in ipairs(facts) do
  if not fact.known and shown < arg.most then
    shown = shown + 1
    print(trace.divergence(fact.run, { answer = fact.answer }))
  end
end

-- What the subject's last token holds, layer by layer, in a prompt that the model gets right.
for _, fact in ipairs(facts) do
  if fact.known then
    print(("\nThrough the unembedding, at the end of '%s' in '%s':"):format(fact.subject, fact.prompt))
    for layer, tokens in ipairs(trace.says(fact.run, fact.positions[#fact.positions], 5)) do print(layer - 1, table.concat(tokens, ",")) end
    break
  end
end
trace.knockout(model, data.facts(model, "facts", { n = 40, subject_tokens = { 2, 6 } })):heatmap("knockout.png", { title = "Which attention do facts need?" })
