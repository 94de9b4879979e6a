// The page: one feed, and the parts that show what it brings.

import { Control } from "./control.js";
import { Curves } from "./curves.js";
import { Feed } from "./feed.js";
import { Log } from "./log.js";
import { Pictures } from "./pictures.js";
import { Events, showNumbers, showPipeline, showProgress, showRanks, showSaves, showStages, showState, showTime } from "./show.js";
import { byId, say } from "./words.js";

const [control, curves, events, log, pictures] = [new Control(), new Curves(), new Events(), new Log(), new Pictures()];
let board = null;

function show() {
  if (!board) return;
  for (const part of [showState, showProgress, showNumbers, showRanks, showPipeline, showStages, showTime, showSaves]) part(board);
  events.show();
  control.show(board);
}

const feed = new Feed({
  /** The board without the plan's text and the events, which travel on their own. */
  run(news) {
    board = { ...board, ...news, plan: news.plan ? { ...board?.plan, ...news.plan } : board?.plan };
    board.last ??= {};
    show();
    pictures.look();
  },
  full(news) {
    board = news;
    events.set(news.events ?? []);
    show();
    pictures.look();
  },
  event(event) {
    events.add(event);
    events.show();
  },
  log: (line) => log.add(line),
  point: (point) => curves.add(point),
  /** No stream: what it would have brought is asked for. */
  poll() {
    curves.read();
    log.read();
  },
  async begin() {
    pictures.look(true);
    const id = await log.read();
    await curves.read();
    return id;
  },
  link(word, text) {
    const link = byId("link");
    link.dataset.link = document.body.dataset.link = word;
    say(link, text);
  },
});

// Ages grow between two reports too.
setInterval(show, 1000);
feed.start();
