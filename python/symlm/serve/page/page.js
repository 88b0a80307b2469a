"use strict";

const CONTROLS = [
  ["max_new_tokens", 0, 1],
  ["temperature", 0, 0.1],
  ["top_k", 0, 1],
  ["top_p", 0, 0.05],
  ["min_p", 0, 0.01],
  ["repetition_penalty", 1, 0.05],
  ["seed", 0, 1],
];
const ALTERNATIVES = 5;
const at = (id) => document.getElementById(id);
const state = { settings: null, chat: false, messages: [], stopper: null, tokens: [], focus: -1 };

function make(tag, properties, ...children) {
  const node = Object.assign(document.createElement(tag), properties);
  node.append(...children);
  return node;
}

// --- asking --------------------------------------------------------------------------------------

async function ask(path, body, signal) {
  const headers = { "Content-Type": "application/json" };
  const key = at("key").value.trim();
  if (key) headers.Authorization = `Bearer ${key}`;
  const init = body ? { method: "POST", body: JSON.stringify(body), headers, signal } : { headers };
  const answer = await fetch(path, init);
  if (answer.ok) return answer;
  if (answer.status === 401) {
    at("key-part").open = true;
    at("key").focus();
  }
  let message = `status ${answer.status}`;
  try {
    message = (await answer.json()).error.message;
  } catch {
    // An answer without a message has its status.
  }
  throw new Error(message);
}

async function* events(answer) {
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) throw new Error("the server ended the text early");
    const parts = (rest + value).split("\n\n");
    rest = parts.pop();
    for (const part of parts) {
      if (!part.startsWith("data: ")) continue;
      const data = part.slice(6);
      if (data === "[DONE]") return;
      const event = JSON.parse(data);
      if (event.error) throw new Error(event.error.message);
      yield event;
    }
  }
}

// --- showing -------------------------------------------------------------------------------------

function say(text, bad = false) {
  at("status").textContent = text;
  at("status").classList.toggle("bad", bad);
}

function colour(logprob) {
  const p = Math.exp(logprob);
  return p < 0.02 ? "p0" : p < 0.1 ? "p1" : p < 0.3 ? "p2" : p < 0.7 ? "p3" : "p4";
}

function visible(text) {
  return text.startsWith("bytes:") ? text : JSON.stringify(text).slice(1, -1).replaceAll(" ", "\u00b7");
}

function showToken(place, text, chosen, top) {
  const node = make("span", { className: `token ${colour(chosen.logprob)}`, textContent: text });
  state.tokens.push({ node, chosen, top });
  node.dataset.number = state.tokens.length - 1;
  place.append(node);
}

function showTip(number) {
  const tip = at("tip");
  for (const one of state.tokens) one.node.classList.remove("at");
  const token = state.tokens[number];
  tip.hidden = !token;
  if (!token) return;
  state.focus = number;
  token.node.classList.add("at");
  const rows = token.top.some((one) => one.token === token.chosen.token) ? token.top : [...token.top, token.chosen];
  const table = make("table", {});
  for (const one of rows) {
    const row = make("tr", { className: one.token === token.chosen.token ? "chosen" : "" });
    row.append(make("td", { textContent: visible(one.token) }));
    row.append(make("td", { textContent: `${(100 * Math.exp(one.logprob)).toFixed(1)} %` }));
    table.append(row);
  }
  tip.replaceChildren(table);
  const box = token.node.getBoundingClientRect();
  const frame = at("result").getBoundingClientRect();
  tip.style.left = `${Math.max(0, Math.min(box.left - frame.left, frame.width - tip.offsetWidth))}px`;
  tip.style.top = `${box.bottom - frame.top + 4}px`;
}

// The pieces of a text, from either kind of event: its text, and its tokens with their alternatives.
function pieceOf(choice) {
  const found = [];
  if (choice.delta) {
    for (const one of choice.logprobs?.content ?? []) found.push([one, one.top_logprobs]);
    return [choice.delta.content ?? "", found];
  }
  (choice.logprobs?.tokens ?? []).forEach((token, i) => {
    // The token that ends a text is none of it.
    if (choice.finish_reason === "stop" && !token) return;
    const top = Object.entries(choice.logprobs.top_logprobs[i]).map(([name, logprob]) => ({ token: name, logprob }));
    // An object has names such as "7" first, whatever the order of the text that it was read from.
    top.sort((a, b) => b.logprob - a.logprob);
    found.push([{ token, logprob: choice.logprobs.token_logprobs[i] }, top.slice(0, ALTERNATIVES)]);
  });
  return [choice.text, found];
}

// Each token shows its own text, the last one what is left of the piece: a part of a character has none.
function showPiece(place, text, tokens) {
  let rest = text;
  tokens.forEach(([chosen, top], i) => {
    const whole = rest.startsWith(chosen.token) ? chosen.token : "";
    const shown = i === tokens.length - 1 ? rest : whole;
    showToken(place, shown, chosen, top);
    rest = rest.slice(shown.length);
  });
  if (!tokens.length) place.append(text);
}

// --- writing -------------------------------------------------------------------------------------

function wanted() {
  const body = { model: state.settings.model, stream: true };
  for (const [name] of CONTROLS) {
    const value = at(name).value;
    if (value !== "") body[name === "max_new_tokens" ? "max_tokens" : name] = Number(value);
  }
  const stop = at("stop_text").value;
  // A text area cannot hold a line end in one line: it is written as in a program.
  if (stop) body.stop = stop.replaceAll("\\n", "\n");
  return body;
}

function request(prompt, chat, messages) {
  if (!chat) return ["v1/completions", { ...wanted(), prompt, logprobs: ALTERNATIVES }];
  messages.push({ role: "user", content: prompt });
  return ["v1/chat/completions", { ...wanted(), messages, logprobs: true, top_logprobs: ALTERNATIVES }];
}

function turn(who, text) {
  const place = make("div", { className: "turn" }, make("span", { className: "who", textContent: who }));
  place.append(text);
  at("output").append(place);
  return place;
}

async function write() {
  if (state.stopper) return;
  // Of this text: another view or an empty conversation may be chosen before it ends.
  const { chat, messages } = state;
  const prompt = at("prompt").value;
  let place = at("output");
  if (!chat) {
    reset();
    place.append(make("span", { className: "given", textContent: prompt }));
  }
  const [path, body] = request(prompt, chat, messages);
  const turns = chat ? [turn("You", prompt), turn("Model", "")] : [];
  if (chat) {
    place = turns[1];
    at("prompt").value = "";
  }
  state.stopper = new AbortController();
  busy(true);
  let text = "";
  let count = 0;
  let end = "stopped";
  const began = performance.now();
  try {
    const answer = await ask(path, body, state.stopper.signal);
    for await (const event of events(answer)) {
      for (const choice of event.choices) {
        const [piece, tokens] = pieceOf(choice);
        text += piece;
        count += tokens.length;
        showPiece(place, piece, tokens);
        if (choice.finish_reason) end = choice.finish_reason === "length" ? "as long as asked" : "ended";
      }
      say(speed(count, began));
      at("output").scrollTop = at("output").scrollHeight;
    }
    say(`${speed(count, began)}, ${end}`);
  } catch (error) {
    if (error.name === "AbortError") say(`${speed(count, began)}, stopped`);
    else say(error.message, true);
    if (chat && !count) {
      messages.pop();
      for (const one of turns) one.remove();
      if (messages === state.messages) at("prompt").value = prompt;
    }
  } finally {
    if (chat && count) messages.push({ role: "assistant", content: text });
    state.stopper = null;
    busy(false);
  }
}

function speed(count, began) {
  const seconds = (performance.now() - began) / 1000;
  return `${count} tokens, ${(count / Math.max(seconds, 0.001)).toFixed(0)} tokens/s`;
}

function busy(is) {
  const held = document.activeElement;
  at("go").disabled = is;
  at("stop").disabled = !is;
  if (held === at("go") && is) at("stop").focus();
  if (held === at("stop") && !is) at("prompt").focus();
}

function reset() {
  at("output").replaceChildren();
  state.tokens = [];
  showTip(-1);
}

// --- the page ------------------------------------------------------------------------------------

function control(name, low, step, value) {
  const flag = `--${name.replaceAll("_", "-")}`;
  const input = make("input", { id: name, type: "number", min: low, step, value, inputMode: "decimal" });
  if (name === "seed") input.placeholder = "random";
  at("controls").append(make("div", {}, make("label", { htmlFor: name }, make("code", { textContent: flag })), input));
}

function choose(chat) {
  if (state.stopper) state.stopper.abort();
  state.chat = chat;
  state.messages = [];
  reset();
  for (const [id, is] of [["tab-text", !chat], ["tab-chat", chat]]) {
    at(id).setAttribute("aria-selected", is);
    at(id).tabIndex = is ? 0 : -1;
  }
  at("prompt-label").textContent = chat ? "Message" : "Prompt";
  at("go").textContent = chat ? "Send" : "Write";
}

function begin(settings) {
  state.settings = settings;
  at("model").textContent = `${settings.model}, context ${settings.context}`;
  document.title = `${settings.model} - symlm`;
  const most = Math.max(1, Math.min(settings.defaults.max_new_tokens, Math.floor(settings.context / 2)));
  for (const [name, low, step] of CONTROLS) {
    control(name, low, step, name === "max_new_tokens" ? most : settings.defaults[name] ?? "");
  }
  const stop = make("input", { id: "stop_text", type: "text", placeholder: "\\n is a line end" });
  at("controls").append(make("div", {}, make("label", { htmlFor: "stop_text" }, make("code", { textContent: "--stop" })), stop));
  at("views").hidden = !settings.chat;
  if (settings.chat) choose(true);
  say("ready");
}

async function load() {
  try {
    begin(await (await ask("page/settings")).json());
  } catch (error) {
    say(error.message, true);
  }
}

at("form").addEventListener("submit", (event) => {
  event.preventDefault();
  if (state.settings) write();
  else load();
});
at("stop").addEventListener("click", () => state.stopper?.abort());
at("clear").addEventListener("click", () => choose(state.chat));
at("key").addEventListener("change", () => state.settings || load());
at("colours").addEventListener("change", () => at("output").classList.toggle("coloured", at("colours").checked));
at("tab-text").addEventListener("click", () => choose(false));
at("tab-chat").addEventListener("click", () => choose(true));
at("views").addEventListener("keydown", (event) => {
  if (event.key !== "ArrowLeft" && event.key !== "ArrowRight") return;
  choose(!state.chat);
  at(state.chat ? "tab-chat" : "tab-text").focus();
});
at("output").addEventListener("mouseover", (event) => showTip(Number(event.target.dataset.number ?? -1)));
at("output").addEventListener("click", (event) => showTip(Number(event.target.dataset.number ?? -1)));
at("output").addEventListener("mouseleave", () => showTip(-1));
at("output").addEventListener("blur", () => showTip(-1));
at("output").addEventListener("keydown", (event) => {
  const move = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
  if (!move || !state.tokens.length) return;
  event.preventDefault();
  showTip(Math.max(0, Math.min(state.tokens.length - 1, at("tip").hidden ? 0 : state.focus + move)));
  state.tokens[state.focus].node.scrollIntoView({ block: "nearest" });
});
document.addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) at("form").requestSubmit();
  if (event.key === "Escape") state.stopper?.abort();
});
at("output").classList.add("coloured");
load();
