-- Logit lens, direct logit attribution, residual decomposition, head scores and weights: every array of golden/techniques/lens, identities,
-- and what the built-in model's README says.
local pb, check = require "patchbay", require "patchbay.check"
local lens, heads = require "patchbay.lens", require "patchbay.heads"

local data = (check.environment "PB_TEST_DATA" or "tests") .. "/golden/techniques/"
local shared = check.environment "PB_SHARED" or "../shared"

local function golden(name, folder, model_folder)
  local ok, case = pcall(pb.read, folder .. "/case.json")
  if not ok then
    check.test("golden lens " .. name, function() check.skip("no " .. folder) end)
    return
  end
  local expected, inputs, model = pb.read(folder .. "/expected.safetensors"), case.inputs, pb.load(model_folder)
  local set = pb.pairs(model, { { clean = inputs.clean, corrupt = inputs.corrupt, answer = inputs.answer, wrong = inputs.wrong } })
  local run, compared = set[1].clean, {}
  local repeated, n = model:runs(inputs.repeated.tokens), inputs.repeated.n
  local T = #repeated[1]

  local function compare(array, got)
    check.test(("golden lens %s: %s"):format(name, array), function()
      local about, wanted = case.arrays[array], expected[array]
      if type(got) == "function" then got = got() end
      if type(got) == "number" then got = pb.tensor { got } end
      if getmetatable(got) == "grid" then got = got.values end
      check.eq(got.count, wanted.count, "number of values")
      local gap = got:contiguous():reshape(wanted.shape):max_difference(wanted)
      check.ok(gap <= about.tolerance, ("differs by %.3g, tolerance %.3g"):format(gap, about.tolerance))
    end)
    compared[array] = true
  end

  for _, side in ipairs { "clean", "corrupt" } do
    for _, metric in ipairs { "logit_diff", "prob" } do compare(("base.%s.%s"):format(side, metric), set:measure(metric, side)) end
  end
  compare("logit_lens", function()
    local all = lens.logits(run)
    return #case.arrays.logit_lens.shape == 2 and all:select(1, #run - 1) or all
  end)
  compare("accumulated_resid", function() return (lens.accumulated(run, -1)) end)
  compare("decompose_resid", function() return (lens.parts(run, -1)) end)
  compare("head_results", function() return lens.heads(run, -1) end)
  local parts = lens.attribution(run, { answer = inputs.answer, wrong = inputs.wrong, neurons = true })
  for _, part in ipairs { "heads", "mlps", "embed", "pos_embed", "attn_bias", "final_bias", "neurons" } do
    if case.arrays["dla." .. part] then compare("dla." .. part, parts[part]) end
  end
  local masks = { previous_token = heads.diagonal(T, 1), current_token = heads.diagonal(T, 0), duplicate_token = heads.diagonal(T, n),
                  induction = heads.diagonal(T, n - 1), first_token = heads.mask(T, function(_, k) return k == 0 and 1 / T or nil end) }
  local scores = heads.attention(repeated, masks)
  for score, grid in pairs(scores) do compare("heads." .. score, grid) end
  for _, kind in ipairs { "previous_token", "duplicate_token", "induction" } do
    for _, measure in ipairs { "mul", "abs" } do
      for _, exclude in ipairs { "", ".exclude" } do
        compare(("detect.%s_head.%s%s"):format(kind, measure, exclude), function()
          local grid = heads.detect(repeated[1], kind, { measure = measure, exclude_first = exclude ~= "", exclude_current = exclude ~= "" })
          if measure == "mul" then return grid end
          local rounded = {} -- the peer rounds the mean distance to three decimals
          for i, x in ipairs(grid.values:tolist()) do rounded[i] = 1 - math.floor((1 - x) * 1000 + 0.5) / 1000 end
          return pb.tensor(rounded)
        end)
      end
    end
  end
  for _, kind in ipairs { "Q", "K", "V" } do compare("composition." .. kind, function() return heads.composition(model, kind) end) end
  for _, kind in ipairs { "ov", "full_ov", "full_qk" } do compare("copying." .. kind, function() return heads.copying(model, kind) end) end
  check.test(("golden lens %s: every array was compared"):format(name), function()
    for array in pairs(expected) do check.ok(compared[array], array) end
  end)
end

golden("gpt2", data .. "lens/gpt2", data .. "models/gpt2")
golden("llama", data .. "lens/llama", data .. "models/llama")
golden("stories260K", shared .. "/golden/techniques/lens/stories260K", shared .. "/models/stories260K")
