-- Training: a tiny model that learns in seconds, runs that go on bit for bit, checkpoints that are refused, PyTorch's curve.
local pb, check, train = require "patchbay", require "patchbay.check", require "patchbay.train"

local CONFIG = { model_type = "gpt2", n_layer = 2, n_head = 2, n_embd = 16, vocab_size = 12, n_positions = 16, n_inner = 32,
                 activation_function = "gelu_new", layer_norm_epsilon = 1e-5, tie_word_embeddings = true }

local function tiny(seed)
  local weights = train.init(CONFIG, { scheme = "fan_in", embedding = 0.3, seed = seed or 1 })
  return pb.model { config = CONFIG, weights = weights }, weights
end

-- Counting in steps of 1 to 3 modulo 12: the third token follows from the first two. Lengths differ.
local function counting(step)
  local batch = {}
  for i = 1, 16 do
    local k = step * 16 + i
    local ids, at, by = {}, k * 5 % 12, k // 5 % 3 + 1
    for j = 1, 6 + k % 7 do ids[j] = (at + by * j) % 12 end
    local predict = {}
    for j = 1, #ids - 2 do predict[j] = j end
    batch[i] = { tokens = ids, predict = predict }
  end
  return batch
end

local function options(model, weights, more)
  local o = { model = model, weights = weights, batch = counting, steps = 80, rate = train.cosine { rate = 2e-2, steps = 80, warmup = 5 },
              betas = { 0.9, 0.99 }, decay = 0.01, log_every = 20, quiet = true }
  for key, value in pairs(more or {}) do o[key] = value end
  return o
end

local function same_weights(a, b)
  for name, t in pairs(a) do
    if (t - b[name]):abs():max() ~= 0 then return false end
  end
  return true
end

check.test("train.run: a tiny model learns to count", function()
  local model, weights = tiny()
  local evaluated = {}
  local result = train.run(options(model, weights, { curve = "counting", evaluate_every = 30, evaluate = function(step, m)
    check.eq(m, model)
    evaluated[#evaluated + 1] = step
    return { next_token = m:run { 2, 4, 6 }.logits:select(0, -1):argmax() }
  end }))
  check.eq(evaluated, { 0, 30, 60, 79 })
  check.eq(result.step, 80)
  check.ok(result.log[1].loss > 2.0, "the loss at the start is near log 12: " .. result.log[1].loss)
  check.ok(result.log[#result.log].loss < 0.4, "the loss in the end: " .. result.log[#result.log].loss)
  check.eq(result.log[#result.log].next_token, 8)
  local rows, columns = pb.read "counting.csv"
  check.eq(#rows, #result.log)
  check.eq(columns, { "step", "tokens", "loss", "mean_loss_since_last", "rate", "gradient_norm", "seconds", "next_token" })
  check.close(rows[#rows].loss, result.log[#result.log].loss, 1e-6)
end)

check.test("train.run: an interrupted run goes on bit for bit", function()
  local more = { dropout = 0.1, checkpoint_every = 10, evaluate_every = 7, evaluate = function(step) return { twice = 2 * step } end }
  local whole_model, whole = tiny()
  local straight = train.run(options(whole_model, whole, more))
  local first_model, first = tiny()
  more.checkpoint, more.stop_at = "resumed", 23
  local part = train.run(options(first_model, first, more))
  check.eq({ part.step, part.resumed }, { 23, nil })
  check.ok(not same_weights(first, whole))
  local second_model, second = tiny(2) -- other weights: all comes from the checkpoint
  more.stop_at = nil
  local rest = train.run(options(second_model, second, more))
  check.eq({ rest.step, rest.resumed }, { 80, 23 })
  check.ok(same_weights(second, whole), "the weights differ")
  check.eq((second_model:run { 1, 2, 3 }.logits - whole_model:run { 1, 2, 3 }.logits):abs():max(), 0.0)
  for i, row in ipairs(straight.log) do
    for _, field in ipairs { "step", "tokens", "loss", "mean_loss_since_last", "rate", "gradient_norm", "twice" } do
      check.eq(rest.log[i][field], row[field], ("row %d, %s"):format(i, field))
    end
  end
  -- once finished: nothing to do
  check.eq(train.run(options(second_model, second, more)).step, 80)
end)

check.test("train.run: a tied matrix that is given under both names is trained once", function()
  local model, weights = tiny()
  train.run(options(model, weights, { steps = 4 }))
  local _, twice = tiny()
  twice["lm_head.weight"] = twice["transformer.wte.weight"]
  local tied = pb.model { config = CONFIG, weights = twice }
  train.run(options(tied, twice, { steps = 4 }))
  check.eq(twice["transformer.wte.weight"], weights["transformer.wte.weight"])
  local run = tied:run { 1, 2, 3 }
  local grads = run:grad(pb.metric.nll(), {}, { weights = true }).weights
  check.eq(grads["lm_head.weight"], grads["transformer.wte.weight"])
  check.eq(run:grad(pb.metric.nll(), {}, { weights = { "lm_head.weight" } }).weights, { ["lm_head.weight"] = grads["lm_head.weight"] })
  check.ok(grads["lm_head.weight"]:abs():max() > 0)
end)

check.test("checkpoints that are damaged, or of something else, are refused and change nothing", function()
  local model, weights = tiny()
  train.run(options(model, weights, { steps = 3, checkpoint = "kept" }))
  local before = weights["transformer.wte.weight"]:clone()
  local function again(more)
    more.steps, more.checkpoint = more.steps or 3, more.checkpoint or "kept"
    return function() train.run(options(model, weights, more)) end
  end
  check.raises(again { clip = 2.0 }, "kept.safetensors", "another training run")
  check.raises(again { about = "other data" }, "another training run", "other data")
  pb.write("plain.safetensors", { a = pb.zeros(1) })
  check.raises(again { checkpoint = "plain" }, "no checkpoint of train.run")
  local trainer = pb.trainer(model, weights)
  local name = "transformer.wte.weight"
  local moment = trainer:tensors("first")[name]
  local digest = trainer:save("mine.safetensors", "id", "state")
  check.eq(trainer:load("mine.safetensors", "id"), "state")
  check.eq(trainer:load("absent.safetensors", "id"), nil)
  -- one number changed, all else right
  local tensors, texts = pb.read "mine.safetensors", { metadata = { digest = digest, identity = "id", state = "state" } }
  pb.write("again.safetensors", tensors, texts)
  check.eq(trainer:load("again.safetensors", "id"), "state")
  local number = tensors["second." .. name]:get(3, 5)
  tensors["second." .. name]:set(3, 5, number + 1e-3)
  tensors["first." .. name]:fill_(7)
  pb.write("again.safetensors", tensors, texts)
  check.raises(function() trainer:load("again.safetensors", "id") end, "again.safetensors", "damaged")
  texts.metadata.state = "states"
  pb.write("again.safetensors", pb.read "mine.safetensors", texts)
  check.raises(function() trainer:load("again.safetensors", "id") end, "damaged")
  tensors["first." .. name] = pb.zeros(3)
  pb.write("again.safetensors", tensors, texts)
  check.raises(function() trainer:load("again.safetensors", "id") end, "no 'first." .. name .. "' of the model's shape")
  pb.write("cut.txt", "\1\0\0\0\0\0\0\0{")
  check.raises(function() trainer:load("cut.txt", "id") end, "cut.txt")
  check.eq(moment:max() < 7, true)
  check.raises(function() trainer:load("mine.safetensors", "other id") end, "another training run")
  moment:fill_(3)
  trainer:load("mine.safetensors", "id")
  check.eq(moment:abs():max(), 0.0)
  check.eq((weights["transformer.wte.weight"] - before):abs():max(), 0.0)
end)

check.test("a loss that is not finite stops training with step, batch and tensor, and keeps the checkpoint", function()
  local model, weights = tiny()
  local name = "transformer.h.1.mlp.c_fc.weight"
  check.raises(function()
    train.run(options(model, weights, { checkpoint = "finite", checkpoint_every = 2, batch = function(step)
      if step == 5 then weights[name]:set(0, 3, 0 / 0) end
      return counting(step)
    end }))
  end, "step 5", "finite", "the weight of '" .. name .. "'", "the first at 3", "16 sequences", "Checkpoint 'finite.safetensors' of 4 steps is kept")
  local other_model, other = tiny()
  local result = train.run(options(other_model, other, { checkpoint = "finite", checkpoint_every = 2 }))
  check.eq(result.resumed, 4)
end)

check.test("trainer: gradients are those of pb.grad, clipping and decay do what they say", function()
  local model, weights = tiny()
  local trainer = pb.trainer(model, weights)
  local a, b = { 1, 4, 7, 10, 1 }, { 3, 5, 7 }
  local loss, norm, targets = trainer:gradients { { tokens = a }, { tokens = b, predict = { 1 } }, { tokens = { 3 } } }
  check.eq(targets, 5)
  local nll = pb.metric.nll()
  local ra, rb = model:run(a), model:run(b)
  local nll_b = pb.metric.nll { pos = 1 }
  check.close(loss, (ra:measure({ {} }, nll):item() * 4 + rb:measure({ {} }, nll_b):item()) / 5, 1e-6)
  check.close(trainer:loss { { tokens = a }, { tokens = b, predict = { 1 } } }, loss, 1e-9)
  local sum = 0
  for _, g in pairs(trainer:tensors "gradient") do sum = sum + g:square():sum() end
  check.close(norm, math.sqrt(sum), 1e-5 * norm)
  -- a slope along the gradient is its squared norm
  local step = 1e-3
  for name, g in pairs(trainer:tensors "gradient") do weights[name]:add_(g * step) end
  model:refresh()
  local up = trainer:loss { { tokens = a }, { tokens = b, predict = { 1 } } }
  check.close((up - loss) / step, norm * norm, 0.02 * norm * norm)
  -- decay alone: rate 0.1, no gradient
  for _, g in pairs(trainer:tensors "gradient") do g:fill_(0) end
  local before, bias = weights["transformer.wte.weight"]:clone(), weights["transformer.ln_f.weight"]:clone()
  trainer:adamw { rate = 0.1, step = 1, decay = { ["transformer.wte.weight"] = 0.5 } }
  check.close(weights["transformer.wte.weight"], before * 0.95, 1e-7)
  check.eq((weights["transformer.ln_f.weight"] - bias):abs():max(), 0.0)
end)

check.test("trainer: an attention mask is a patch", function()
  local model, weights = tiny()
  local trainer = pb.trainer(model, weights)
  local ids, mask = { 1, 2, 3, 4, 5 }, { { site = "attn_scores", layer = { 0, 1 }, dest = { 3, 4 }, src = { 1, 2 }, value = -math.huge } }
  local free, masked = trainer:loss { { tokens = ids } }, trainer:loss { { tokens = ids, patches = mask } }
  check.ok(math.abs(free - masked) > 1e-4)
  -- what may not be seen does not matter (the last prediction, from position 3, of the token at 4)
  local other = trainer:loss { { tokens = { 1, 9, 8, 4, 5 }, predict = { 3 }, patches = mask } }
  check.close(other, trainer:loss { { tokens = ids, predict = { 3 }, patches = mask } }, 1e-6)
  check.close(masked, model:run(ids):measure({ mask }, pb.metric.nll()):item(), 1e-6)
end)

check.test("schedules", function()
  local cosine = train.cosine { rate = 1, steps = 11, warmup = 2, least = 0.1 }
  check.close({ cosine(0), cosine(1), cosine(2), cosine(6), cosine(10) }, { 0.5, 1, 1, 0.55, 0.1 }, 1e-12)
  local lines = train.piecewise { { 10, 1 }, { 20, 3 }, { 20, 2 }, { 30, 0 } }
  check.close({ lines(0), lines(10), lines(15), lines(20), lines(25), lines(99) }, { 1, 1, 2, 2, 1, 0 }, 1e-12)
  check.close({ train.constant(2, 4)(0), train.constant(2, 4)(9) }, { 0.5, 2 }, 1e-12)
  check.raises(function() train.cosine { rate = 1 } end, "steps")
  check.raises(function() train.piecewise { { 3, 1 }, { 2, 1 } } end, "before")
end)

check.test("train.batches: every sequence once a pass, in an order of its own, within the number of tokens", function()
  local list = {}
  for i = 1, 20 do
    list[i] = {}
    for j = 1, 2 + i % 5 do list[i][j] = i % 12 end
  end
  local batches = train.batches(list, { tokens = 12, seed = 3 })
  local function pass(first)
    local seen, n, order, step = {}, 0, {}, first
    while n < 20 do
      local tokens = 0
      for _, s in ipairs(batches(step)) do
        check.ok(not seen[s.tokens])
        seen[s.tokens], n, tokens = true, n + 1, tokens + #s.tokens
        order[#order + 1] = #s.tokens
      end
      check.ok(tokens <= 12)
      step = step + 1
    end
    return step, table.concat(order)
  end
  local second, order = pass(0)
  local third, other = pass(second)
  check.ok(order ~= other)
  pass(third)
  local fresh = train.batches(list, { tokens = 12, seed = 3 })
  check.eq(#fresh(second + 1), #batches(second + 1))
  check.eq(fresh(second + 1)[1].tokens, batches(second + 1)[1].tokens)
  check.raises(function() train.batches({ { 1, 2, 3 } }, { tokens = 2 }) end, "3 tokens")
end)

check.test("train: mistakes are named", function()
  local model, weights = tiny()
  local facts = pb.load "facts"
  check.raises(function() pb.trainer(facts, { ["transformer.wte.weight"] = facts:weight "transformer.wte.weight" }) end, "same table of weights")
  check.raises(function() pb.trainer(model, {}) end, "of 0 given weights")
  local trainer = pb.trainer(model, weights)
  check.raises(function() trainer:gradients {} end, "sequences")
  check.raises(function() trainer:gradients { { tokens = { 1 } } } end, "no token to predict")
  check.raises(function() trainer:gradients { { tokens = { 1, 99 } } } end, "99", "vocabulary")
  check.raises(function() trainer:gradients { { tokens = { 1, 2 }, predict = { 1 } } } end, "predict", "position 1")
  check.raises(function() trainer:gradients { { tokens = { 1, 2 }, predicts = { 0 } } } end, "predict")
  check.raises(function() trainer:gradients { { tokens = { 1, 2 }, patches = { { site = "z", layer = 0 } } } } end, "sequence 1, patch 1", "no action")
  check.raises(function() trainer:gradients { { tokens = { 1, 2 }, patches = { { site = "z", dropout = 1 } } } } end, "below 1")
  check.raises(function() trainer:adamw { rate = 1 } end, "step")
  check.raises(function() trainer:adamw { rate = 1, step = 1, beta1 = 1 } end, "beta1")
  check.raises(function() train.init { model_type = "bert" } end, "gpt2", "llama")
  check.raises(function() train.run { model = model, weights = weights } end, "needs batch")
  check.raises(function() train.run(options(model, weights, { step = 1 })) end, "did you mean 'steps'")
end)

check.test("train.init: deviations by role, also for a llama", function()
  local weights = train.init(CONFIG, { scheme = "fan_in", embedding = 0.5, sines = 0.2 })
  local function deviation(t) return math.sqrt(t:square():mean()) end
  check.close(deviation(weights["transformer.h.0.attn.c_attn.weight"]), 0.25, 0.03)
  check.close(deviation(weights["transformer.h.0.mlp.c_proj.weight"]), 32 ^ -0.5 / 2, 0.02)
  check.close(deviation(weights["transformer.wte.weight"]), 0.5, 0.08)
  check.close(weights["transformer.wpe.weight"]:get(1, 0), 0.2 * math.sin(1), 1e-6)
  check.eq(weights["transformer.ln_f.weight"]:min(), 1.0)
  local llama = { model_type = "llama", hidden_size = 16, num_attention_heads = 2, num_key_value_heads = 1, num_hidden_layers = 2, intermediate_size = 24,
                  vocab_size = 12, max_position_embeddings = 32, rms_norm_eps = 1e-5, hidden_act = "silu", tie_word_embeddings = false }
  local made = train.init(llama, { seed = 4, scheme = "fan_in", embedding = 0.3 })
  local model = pb.model { config = llama, weights = made }
  local result = train.run(options(model, made))
  check.ok(result.log[#result.log].loss < 0.6, "the loss in the end: " .. result.log[#result.log].loss)
end)

check.test("trainer: failed allocations", function()
  local model, weights = tiny()
  check.exhaust(function()
    local trainer <close> = pb.trainer(model, weights)
    trainer:gradients { { tokens = { 1, 2, 3 }, patches = { { site = "attn_scores", dest = 2, src = 0, value = -math.huge } } } }
    trainer:adamw { rate = 0, step = 1 }
  end)
end)

check.test("bpe: words as GPT-2 cuts them, merges by weight, files that load", function()
  local bpe = require "patchbay.bpe"
  local s = bpe.SPACE
  check.eq(bpe.words "It's 10 o'clock,  we  go", { "It", "'s", s .. "10", s .. "o", "'", "clock", ",", s, s .. "we", s, s .. "go" })
  check.raises(function() bpe.words "caf\u{e9}" end, "ASCII")
  local learner = bpe.train({ [s .. "low"] = 5, [s .. "lower"] = 2, [s .. "newest"] = 6, [s .. "widest"] = 3 }, 263)
  check.eq(learner.merges[1], { "s", "t" }) -- es 9, st 9: the later pair in byte order
  check.eq(learner.merges[2], { "e", "st" })
  check.eq(#learner.vocab, 263)
  local vocab = table.move(learner.vocab, 1, 263, 1, {})
  vocab[264] = "<|end|>"
  bpe.write("tok", vocab, learner.merges, { special = { "<|end|>" }, context = 32 })
  local tokenizer = pb.tokenizer "tok"
  check.eq(tokenizer.size, 264)
  check.eq(tokenizer:decode(tokenizer:encode " lowest newest"), " lowest newest")
  check.ok(#tokenizer:encode " newest" < 7)
  local banned = bpe.learner { banned = { st = true } }
  banned:merge(s, "n")
  banned:grow({ { s .. "newest", 6 } }, function(v) return #v >= 259 end)
  check.eq(banned.merges[1], { s, "n" })
  for _, merge in ipairs(banned.merges) do check.ok(merge[1] .. merge[2] ~= "st") end
end)

-- ---- a tiny model that is good for something ------------------------------------------------------------------------------------------------

-- Eight to twelve of 20 tokens in some order, then the same once more: what comes next can only be read off the first time.
local function said_twice(step, count)
  local draws, at, list = pb.rand { count * 16, seed = 7, draw = step }:tolist(), 0, {}
  local function below(n)
    at = at + 1
    return math.floor(draws[at] * n)
  end
  for i = 1, count do
    local pool, n, ids, predict = {}, 8 + below(5), {}, {}
    for t = 1, 20 do pool[t] = t - 1 end
    for t = 1, n do
      local j = t + below(21 - t)
      pool[t], pool[j] = pool[j], pool[t]
      ids[t], ids[n + t] = pool[t], pool[t]
      if t > 1 then predict[t - 1] = n + t - 2 end
    end
    list[i] = { tokens = ids, predict = predict }
  end
  return list
end

check.test("train.run: two layers learn in seconds to say again what was said, in sequences never seen too", function()
  local weak = setmetatable({}, { __mode = "k" })
  weak[{}] = true
  pb.zeros(1):close()
  if next(weak) == nil then check.skip "the collector is stressed" end
  local config = { model_type = "gpt2", n_layer = 2, n_head = 2, n_embd = 32, vocab_size = 20, n_positions = 24, n_inner = 64,
                   activation_function = "gelu_new", layer_norm_epsilon = 1e-5, tie_word_embeddings = true }
  local weights = train.positions(config, train.init(config, { scheme = "fan_in", embedding = 0.2, seed = 1 }), { heads = 1, amplitude = 0.8, strength = 1.5 })
  local model, fresh = pb.model { config = config, weights = weights }, said_twice(100000, 100)
  local scores = require "patchbay.heads".scores(model, { n = 5, length = 8, tokens = fresh[1].tokens, seed = 3 })
  local first = scores.previous:top(1)[1]
  check.ok(first.layer == 0 and first.head == 0 and first.value > 0.8, "head 0.0 begins with the token before")
  local function accuracy()
    local right, all = 0, 0
    for _, s in ipairs(fresh) do
      local guesses = model:run(s.tokens).logits:argmax(1):tolist()
      for _, pos in ipairs(s.predict) do
        right, all = right + (guesses[pos + 1] == s.tokens[pos + 2] and 1 or 0), all + 1
      end
    end
    return right / all
  end
  check.ok(accuracy() < 0.15)
  local log = train.run { model = model, weights = weights, batch = function(step) return said_twice(step, 32) end, steps = 250,
                          rate = train.cosine { rate = 1e-2, steps = 250, warmup = 20, least = 1e-4 }, betas = { 0.9, 0.99 }, decay = 0.01, log_every = 50, quiet = true }.log
  check.ok(log[1].loss > 2.9 and log[#log].mean_loss_since_last < 2.2, ("loss %.3f, then %.3f"):format(log[1].loss, log[#log].mean_loss_since_last))
  local share = accuracy()
  check.ok(share > 0.25, ("%.3f right; chance is 0.05, and 0.1 knows which tokens the sequence has"):format(share))
end)

-- ---- PyTorch's loss curve ------------------------------------------------------------------------------------------------------------
-- tests/golden/train: 50 steps of the trainer that made the first "facts" model, with an attention mask, from these weights on these
-- rows (flags above the id: 32768 begins a sequence, 16384 is not predicted, 8192 and 4096 are a subject's inner and last tokens).

local function golden_sequences(row)
  local list, current = {}, nil
  for _, token in ipairs(row) do
    if token & 32768 ~= 0 then
      current = { tokens = {}, predict = {}, patches = {}, flags = {} }
      list[#list + 1] = current
    elseif token & 16384 == 0 then
      current.predict[#current.predict + 1] = #current.tokens - 1
    end
    current.tokens[#current.tokens + 1], current.flags[#current.flags + 1] = token & 4095, token
  end
  local kept = {}
  for _, s in ipairs(list) do
    local flags, n = s.flags, #s.tokens
    for q = 0, n - 1 do -- who sees what, one entry at a time
      local all, early = {}, {}
      for k = 0, q - 1 do
        local stop = k -- the last token of k's subject
        while flags[stop + 1] & 8192 ~= 0 and stop < n - 1 do stop = stop + 1 end
        if q > stop and flags[k + 1] & 8192 ~= 0 then
          all[#all + 1] = k
        elseif q > stop and flags[k + 1] & 4096 ~= 0 then
          early[#early + 1] = k
        end
      end
      if #all > 0 then s.patches[#s.patches + 1] = { site = "attn_scores", dest = q, src = all, value = -math.huge } end
      if #early > 0 then s.patches[#s.patches + 1] = { site = "attn_scores", layer = { 0, 1 }, dest = q, src = early, value = -math.huge } end
    end
    s.flags = nil
    if n > 1 then kept[#kept + 1] = s end
  end
  return kept
end

check.test("train.run: PyTorch's loss curve over 50 steps, within 1e-4", function()
  local folder = (check.environment "PB_TEST_DATA" or "tests") .. "/golden/train/"
  local config = { model_type = "gpt2", n_layer = 3, n_head = 2, n_embd = 32, vocab_size = 2048, n_positions = 64, activation_function = "gelu_new",
                   layer_norm_epsilon = 1e-5, tie_word_embeddings = true }
  local weights, curve = pb.read(folder .. "init.safetensors"), pb.read(folder .. "curve.csv")
  local rows = pb.read(folder .. "rows.safetensors").rows:totable()
  local result = train.run {
    model = pb.model { config = config, weights = weights }, weights = weights, steps = #curve, betas = { 0.9, 0.99 }, decay = 0.1, clip = 1.0,
    rate = function(step) return 2e-3 * math.min(1, (step + 1) / 10) end, log_every = 1, quiet = true,
    batch = function(step)
      local list = {}
      for i = step * 4 + 1, step * 4 + 4 do
        for _, s in ipairs(golden_sequences(rows[i])) do list[#list + 1] = s end
      end
      return list
    end }
  check.eq(#result.log, 50)
  for i, row in ipairs(curve) do
    check.close(result.log[i].loss, row.loss, 1e-4, "the loss of step " .. row.step)
    check.close(result.log[i].gradient_norm, row.gradient_norm, 1e-3 * row.gradient_norm, "the gradient's norm at step " .. row.step)
  end
end)

-- ---- the built-in model's corpus -------------------------------------------------------------------------------------------------------

-- Seconds of work in states of their own, which the stressed suite would only repeat.
local function skip_stressed()
  local weak = setmetatable({}, { __mode = "k" })
  weak[{}] = true
  pb.zeros(1):close()
  if next(weak) == nil then check.skip "the collector is stressed" end
end

check.test("examples/facts: the tasks are the built-in model's, the rows the golden ones", function()
  skip_stressed()
  local out, folder = check.output_folder() .. "/facts_data", pb.load("facts").folder
  local result = check.recipe { file = "examples/facts/data.lua", output = out, params = { "rows=8" }, gc_stress = false }
  check.ok(result.ok, result.message)
  for _, name in ipairs { "facts", "facts_all_templates", "facts_paraphrase", "ioi", "induction", "greater_than", "subject_verb" } do
    local file = ("tasks/%s.jsonl"):format(name)
    local made, kept = pb.read(out .. "/data/" .. file), pb.read(folder .. "/" .. file)
    check.eq(#made, #kept, name)
    for i = 1, #kept do check.eq(made[i], kept[i], ("%s, line %d"):format(name, i)) end
  end
  check.eq(pb.read(out .. "/data/facts.json"), pb.read(folder .. "/facts.json"))
  check.eq(pb.read(out .. "/rows.safetensors").rows, pb.read((check.environment "PB_TEST_DATA" or "tests") .. "/golden/train/first_rows.safetensors").rows)
end)

check.test("examples/facts: corpus, tokenizer, training and measuring in one command, stopped and gone on", function()
  skip_stressed()
  local out = check.output_folder() .. "/facts_train"
  local params = { "steps=3", "batch=2", "layers=1", "width=16", "heads=2", "log=1", "every=1", "documents=0.02" }
  local stopped = check.recipe { file = "examples/facts/train.lua", output = out, params = table.move({ "stop=2" }, 1, 1, #params + 1, table.move(params, 1, #params, 1, {})),
                                 gc_stress = false }
  check.ok(stopped.ok and stopped.printed:find "stopped after 2 of 3 steps", stopped.message .. stopped.printed)
  local result = check.recipe { file = "examples/facts/train.lua", output = out, params = params, gc_stress = false }
  check.ok(result.ok and not result.printed:find "step 1 of 3" and result.printed:find "step 2 of 3", result.message .. result.printed)
  check.ok(result.printed:find "| greater%-than, the worst prompt | ", result.printed)
  local config = pb.read(out .. "/facts/config.json")
  check.eq(config.vocab_size, 2048)
  local weights = pb.read(out .. "/facts/model.safetensors")
  check.eq(weights["transformer.wte.weight"].shape, { 2048, 16 })
end)
