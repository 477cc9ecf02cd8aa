-- Orders are a manager's to write: refused from one that does not lead any more.

SELECT fence_managers_at('orders');
