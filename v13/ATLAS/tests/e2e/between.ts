/** Between a browser and the server: what becomes of each frame is a test's to say. */
import type { BrowserContext, WebSocketRoute } from "playwright";

export type Fields = Readonly<Record<string, unknown>>;

/** What is passed on for one frame. */
type Passing = (frame: Fields) => readonly Fields[];

export class Between {
  /** The frames to give to the page for one of the server's. */
  deliver: Passing = (frame) => [frame];
  /** The frames to give to the server for one of the page's. */
  forward: Passing = (frame) => [frame];
  /** What the server sent. */
  readonly passed: Fields[] = [];
  /** What the pages sent. */
  readonly sent: Fields[] = [];
  #page: WebSocketRoute | null = null;

  /** Stand between the server and every tab of a browser. */
  readonly stand = async (context: BrowserContext): Promise<void> => {
    await context.routeWebSocket(/\/v1\/chat\/ws/, (socket) => {
      this.#page = socket;
      const server = socket.connectToServer();
      server.onMessage((text) => {
        const frame = JSON.parse(String(text)) as Fields;
        this.passed.push(frame);
        for (const one of this.deliver(frame)) socket.send(JSON.stringify(one));
      });
      socket.onMessage((text) => {
        const frame = JSON.parse(String(text)) as Fields;
        this.sent.push(frame);
        for (const one of this.forward(frame)) server.send(JSON.stringify(one));
      });
    });
  };

  /** Give a frame, or any text, to the tab that connected last. */
  show(frame: Fields | string): void {
    this.#page?.send(typeof frame === "string" ? frame : JSON.stringify(frame));
  }

  /** The messages that the server delivered. */
  delivered(): readonly Fields[] {
    return this.passed.filter(isMessage);
  }

  /** The messages that the pages sent, each as often as it was sent. */
  written(): readonly Fields[] {
    return this.sent.filter(isMessage);
  }
}

export function isMessage(frame: Fields): boolean {
  return frame["type"] === "CHAT_MESSAGE";
}

export function isAck(frame: Fields): boolean {
  return frame["type"] === "ACK";
}

/** Passes on everything but the frames that are `which`. */
export function without(which: (frame: Fields) => boolean): Passing {
  return (frame) => (which(frame) ? [] : [frame]);
}
