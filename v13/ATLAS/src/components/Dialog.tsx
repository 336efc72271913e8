/** A modal dialog: the browser's own, so focus stays inside and Escape closes it. */
import { type ReactNode, useEffect, useId, useRef } from "react";

import styles from "./Dialog.module.css";

export interface DialogProps {
  readonly title: string;
  readonly onClose: () => void;
  readonly children: ReactNode;
}

export function Dialog({ title, onClose, children }: DialogProps): ReactNode {
  const dialog = useRef<HTMLDialogElement>(null);
  const heading = useId();
  useEffect(() => {
    const shown = dialog.current;
    shown?.showModal();
    return () => {
      shown?.close();
    };
  }, []);
  return (
    <dialog ref={dialog} className={styles["dialog"]} aria-labelledby={heading} onClose={onClose}>
      <header className={styles["head"]}>
        <h2 id={heading} className={styles["title"]}>
          {title}
        </h2>
        <button type="button" className={styles["close"]} onClick={onClose} aria-label="Close">
          ×
        </button>
      </header>
      {children}
    </dialog>
  );
}
