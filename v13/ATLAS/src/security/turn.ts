/** Resolves in a later turn of the event loop, so that a page can draw amid long work. */
export function turn(): Promise<void> {
  return new Promise((resolve) => {
    // Not a timer: browsers hold those back.
    const { port1, port2 } = new MessageChannel();
    port1.onmessage = () => {
      port1.close();
      resolve();
    };
    port2.postMessage(null);
  });
}
