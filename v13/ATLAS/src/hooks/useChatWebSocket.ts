/** The socket as a hook, under the host's name: frames in, frames out, and whether it is there. */
import { useCallback, useEffect, useEffectEvent, useRef, useState } from "react";

import { Connection } from "../transport/connection";
import type { ServerFrame } from "../transport/frames";

export interface ChatWebSocketOptions {
  /** The socket goes on with it when it changes; it never stands in a URL. */
  readonly token: string;
  /** Each frame of the server, in its order. */
  readonly onMessage: (frame: ServerFrame) => void;
  readonly url?: string;
}

export interface ChatWebSocket {
  readonly isConnected: boolean;
  /** Why there is no connection; null while there is one, or it is being made. */
  readonly error: string | null;
  /** Send a frame of SPEC.md; false when there is no connection. */
  readonly sendMessage: (frame: object) => boolean;
}

/** Connects once; a render, or a new `onMessage`, does not touch the connection. */
export function useChatWebSocket({
  token,
  onMessage,
  url = "/v1/chat/ws",
}: ChatWebSocketOptions): ChatWebSocket {
  const [isConnected, setConnected] = useState(false);
  const [error, setError] = useState<string | null>(null);
  const connection = useRef<Connection | null>(null);
  const take = useEffectEvent(onMessage);
  const begin = useEffectEvent(
    () =>
      new Connection({
        url,
        token,
        onFrame: (frame) => {
          take(frame);
        },
        onState: (state, code) => {
          setConnected(state === "online");
          if (state === "refused") setError(code === "" ? "the server refused" : code);
          else if (state === "offline") setError("offline");
          else setError(null);
        },
      }),
  );
  useEffect(() => {
    const opened = begin();
    connection.current = opened;
    opened.open();
    return () => {
      connection.current = null;
      opened.close();
    };
  }, [url]);
  useEffect(() => {
    connection.current?.renew(token);
  }, [token]);
  const sendMessage = useCallback((frame: object) => connection.current?.send(frame) ?? false, []);
  return { isConnected, error, sendMessage };
}
