-- Methods of runs and models that are a few lines of Lua: predictions, tokens.
local pb, core = ...

-- run:top(k [, { pos = }]) -> list of { token =, id =, prob =, logit = }: the likeliest next tokens at a position (the last)
function core.methods.run.top(run, k, options)
  if getmetatable(run) ~= "run" then core.raise("top is called with a colon: run:top(5)") end
  options = options or {}
  core.fields(options, { "pos" }, 0, "top")
  k = k or 5
  if math.type(k) ~= "integer" or k < 1 or k > run.model.vocab then
    core.raise(("top(k): k must be an integer from 1 to %d, got %s"):format(run.model.vocab, core.describe(k)))
  end
  local logits = run:value { site = "logits", pos = options.pos or -1 }
  if logits.shape[1] ~= 1 then core.raise("top is of one position: pos must be a number") end
  logits = logits:select(0, 0)
  local nans = logits:isnan()
  if nans:max() > 0 then
    core.raise(("logits at this position are NaN, first that of token %d: look at ln_final, the unembedding and patches at the final sites")
      :format(nans:argmax()))
  end
  local probs, values, ids = logits:softmax(0), logits:topk(k)
  local list, model = {}, run.model
  for i = 0, k - 1 do
    local id = math.tointeger(ids:get(i))
    list[i + 1] = { id = id, token = model.has_tokenizer and model:decode { id } or tostring(id), prob = probs:get(id), logit = values:get(i) }
  end
  return list
end

-- model:tokens(text [, { bos = }]) -> list of { id =, label = }, which prints as a table
local tokens_meta = { __name = "tokens", __metatable = "tokens" }
function tokens_meta.__tostring(list)
  local parts = {}
  for i, token in ipairs(list) do parts[i] = ("%3d  %-6d %s"):format(i - 1, token.id, token.label) end
  return table.concat(parts, "\n")
end

function core.methods.model.tokens(model, text, options)
  if getmetatable(model) ~= "model" then core.raise("tokens is called with a colon: model:tokens(text)") end
  local list = {}
  for i, id in ipairs(type(text) == "table" and text or model:encode(text, options)) do list[i] = { id = id, label = model:label(id) } end
  return setmetatable(list, tokens_meta)
end
